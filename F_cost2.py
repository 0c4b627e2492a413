import sys, asyncio, argparse, copy
exec(open('/tmp/h/run/F_cost.py').read().split("o=argparse")[0])
def many(app,control):
    c=m.shipped(app,control)
    (h,)=m._manager(c)["route_config"]["virtual_hosts"]
    new=[r for r in h["routes"] if r.get("name") in NEW]
    h["routes"]=[copy.deepcopy(r) for _ in range(49) for r in new]+h["routes"]
    return c
o=argparse.Namespace(rounds=6,pairs=2,seconds=1,apart=False,only="")
async def main():
    with stage(Path("/usr/bin"),{}) as run:
        ports=m.start_app(run)
        print(m.HEAD)
        print((await m.measure(m.Case("196 more routes, no tracestate",after,many),ports,run.folder,o)).line(),flush=True)
        m.HEADERS["tracestate"]="dd=s:1;o:rum;t.dm:-4,congo=t61rcWkgMzE"
        print((await m.measure(m.Case("196 more routes, tracestate of others",after,many),ports,run.folder,o)).line(),flush=True)
asyncio.run(main())
