"""A gRPC app on grpcio's own asyncio server: grpc_app.py PORT. Any unary method answers its request."""

import asyncio
import sys

import grpc


class Echo(grpc.GenericRpcHandler):
    def service(self, _):
        return grpc.unary_unary_rpc_method_handler(self.answer)

    async def answer(self, request, _):
        return request


async def main(port):
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Echo(),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
