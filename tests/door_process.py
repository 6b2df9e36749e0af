"""A server process of the door with a small app; tests/test_door_server.py runs it and reads what it says."""

import asyncio
import json
import sys
from typing import Any

from holdfast.door.server import serve
from holdfast.settings import Settings


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Tells what it was asked; /slow says that it has begun and waits until its client hangs up or half a second."""
    if scope["type"] == "lifespan":
        for event in ("startup", "shutdown"):
            await receive()
            say(event)
            if event == given.get("stuck_in"):
                await asyncio.sleep(3600)
            await send({"type": f"lifespan.{event}.complete"})
        return
    body = b""
    message: dict[str, Any] = {"more_body": True}
    while message.get("more_body"):
        message = await receive()
        if message["type"] == "http.disconnect":
            say("disconnected")
            return
        body += message["body"]
    if scope["path"] == "/slow":
        say("slow")
        await asyncio.sleep(0.5)
    seen = {"path": scope["path"], "client": scope["client"][0], "scheme": scope["scheme"], "body": len(body)}
    reply = json.dumps(seen).encode()
    length = (b"content-length", str(len(reply)).encode())
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": reply})


def say(line: str) -> None:
    """Tells the test how far we are."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


given: dict[str, Any] = {}

if __name__ == "__main__":
    given |= json.loads(sys.argv[1])
    serve(
        app,
        Settings(**given["settings"]),
        host="127.0.0.1",
        port=given["port"],
        fd=given["fd"],
        parent_pipe=given["parent_pipe"],
    )
    say("ended")
