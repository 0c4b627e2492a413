import sys, asyncio, argparse, tempfile, statistics
sys.path.insert(0,'/tmp/h/F')
from pathlib import Path
import bench.mesh_cost as m
from bench.processes import stage
from devroute.mesh.istio.sidecar import Sidecar, Endpoint, bootstrap, OUTBOUND
from devroute.mesh.manifests.model import WorkloadScope
from devroute.mesh.envoy import running
from contextlib import AsyncExitStack
import os
F=tempfile.mkdtemp(dir="/dev/shm")
def shape(app,control,on):
    s=Sidecar("foo",Endpoint("127.0.0.1",app),labels={"app":"foo"},services={"bar":Endpoint("127.0.0.1",app)},clusters={m.PROXY.control_cluster:Endpoint("127.0.0.1",control),m.PROXY.data_cluster:Endpoint("127.0.0.1",app)})
    c=bootstrap(s)
    if on: c=m.apply([m.envoy_filter(WorkloadScope("default","foo",trace_folder=F))],s,c)
    c["static_resources"]["listeners"]=[l for l in c["static_resources"]["listeners"] if l["name"]==OUTBOUND]
    return c
async def main():
    cores=sorted(os.sched_getaffinity(0)); own,others=cores[-1],set(cores[:-1])
    with stage(Path("/usr/bin"),{}) as run:
        app,control=m.start_app(run)
        H=m.HEADERS|{"Host":"bar"}
        diffs=[];base=[]
        for pair in range(3):
            async with AsyncExitStack() as st:
                es=[]
                for name,on in (("without",False),("with",True)):
                    e=await st.enter_async_context(running(shape(app,control,on),run.folder,name,{"ISTIO_META_WORKLOAD_NAME":"foo","POD_NAMESPACE":"default"}))
                    for t in os.listdir(f"/proc/{e.process.pid}/task"): os.sched_setaffinity(int(t),{own})
                    es.append(e)
                for n in range(4):
                    a,b=await asyncio.gather(*(m.drive(e,H,1,others) for e in es))
                    if n: diffs.append(b.cpu-a.cpu); base.append(a.cpu)
        print("outbound ordinary: base",statistics.median(base),"extra",statistics.median(diffs),sorted(round(d,1) for d in diffs))
asyncio.run(main())
