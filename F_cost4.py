import sys, asyncio, argparse, yaml
sys.path.insert(0,'/tmp/h/F')
from pathlib import Path
import bench.mesh_cost as m
from bench.processes import stage
OLD=[d for d in yaml.safe_load_all(open('/tmp/h/run/F_old.yaml')) if d]
def old(app,control):
    s,c=m._sidecar(app,control)
    return m.apply(OLD,s,c)
o=argparse.Namespace(rounds=6,pairs=2,seconds=1,apart=False,only="")
async def main():
    with stage(Path("/usr/bin"),{}) as run:
        ports=m.start_app(run)
        print(m.HEAD)
        for n,c in (("no contract: old vs new",None),("other: old vs new","other"),("detour: old vs new","ours")):
            print((await m.measure(m.Case(n,old,m.shipped,c),ports,run.folder,o)).line(),flush=True)
asyncio.run(main())
