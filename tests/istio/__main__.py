"""`python -m tests.istio`: the rig for use by hand, until Ctrl-C."""

import asyncio
import contextlib
import os
import shlex
import signal

from tests.istio.rig import Rig, rig, with_laptops


def usage(found: Rig) -> str:
    inside = "\n".join(
        f"  {name:8} {space.address:14} ip netns exec {space.name}" for name, space in found.pods.items()
    )
    control = shlex.join(
        map(str, found.plane.namespace.command("kubectl", "--kubeconfig", found.plane.kubeconfig))
    )
    return (
        f"folder    {found.folder}\n"
        f"kubectl   {control}\n"
        f"istioctl  {control.replace(' kubectl ', f' {found.plane.istioctl} ')}\n"
        f"pods\n{inside}\n"
        "admin     ip netns exec POD curl -s localhost:15000/config_dump\n"
        "request   ip netns exec POD curl -i http://b/\n"
        "Ctrl-C ends it all"
    )


async def main() -> None:
    running = asyncio.current_task()
    assert running is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, running.cancel)
    async with rig() as found, with_laptops(found):
        print(usage(found), flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    if os.geteuid() != 0:
        raise SystemExit("run it as root: it makes network namespaces")
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(main())
