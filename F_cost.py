import sys, asyncio, argparse, copy
sys.path.insert(0,'/tmp/h/F')
from pathlib import Path
import bench.mesh_cost as m
from bench.processes import stage
NEW={f"devroute-ask-{c}" for c in ("tracestate","ot-baggage-devroute","uberctx-devroute","correlation-context")}
def before(app,control):
    c=m.shipped(app,control)
    (h,)=m._manager(c)["route_config"]["virtual_hosts"]
    h["routes"]=[r for r in h["routes"] if r.get("name") not in NEW]
    return c
def after(app,control): return m.shipped(app,control)
o=argparse.Namespace(rounds=8,pairs=4,seconds=1,apart=False,only="")
async def main():
    with stage(Path("/usr/bin"),{}) as run:
        ports=m.start_app(run)
        print(m.HEAD)
        m.HEADERS["tracestate"]="dd=s:1;o:rum;t.dm:-4,congo=t61rcWkgMzE"
        for case in (m.Case("noise: before twice, tracestate of others",before,before), m.Case("no contract, tracestate of others: after vs before",before,after), m.Case("no contract: after vs no filter",m.plain,after), m.Case("no contract: before vs no filter",m.plain,before)):
            print((await m.measure(case,ports,run.folder,o)).line(),flush=True)
asyncio.run(main())
