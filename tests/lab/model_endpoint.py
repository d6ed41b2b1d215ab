#!/usr/bin/env python3
"""A model endpoint that follows a script, on loopback only.

The real agents ask it as they would ask their vendor, so that their real tools run, the same ones each time, with no
account and nothing sent off the machine. It speaks what the two agents speak: Anthropic's Messages (streamed or not)
and OpenAI's Responses (streamed).

  model_endpoint.py PORT SCRIPT.json WORK

SCRIPT is a JSON list of steps; {work} in any text stands for the folder WORK:
  {"tool": "Bash", "command": "..."}                     any tool of the agent, with that tool's arguments
  {"text": "..."}                                        an answer that ends the turn
Which step is due is told by how many tool results the conversation holds already, so a retry repeats its step. For
an agent that has no tool of that name but a shell, Bash is the shell. What is asked goes to standard output, with a line
"failed: ..." for each result that is not a success.
"""

import fcntl
import json
import re
import socket
import struct
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SHELLS = ("exec_command", "shell_command", "shell")
RESULTS = ("tool_result", "function_call_output", "local_shell_call_output", "custom_tool_call_output")


def raise_loopback():
    """A new network namespace has its loopback interface down; `ip` is not everywhere."""
    siocsifflags, up_and_running = 0x8914, 0x41
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, siocsifflags, struct.pack("16sh14x", b"lo", up_and_running))


def results(request):
    """What the tools answered so far: content blocks of messages (Anthropic), items of the input (OpenAI)."""
    items = list(request.get("input", []))
    for message in request.get("messages", []):
        if isinstance(message.get("content"), list):
            items += message["content"]
    return [item for item in items if isinstance(item, dict) and item.get("type") in RESULTS]


def step_due(script, tools, request):
    """The step that comes next. A request without tools asks for a title or the like: it takes no step."""
    done = len(results(request))
    step = script[done] if tools and done < len(script) else {"text": "ok"}
    return done, step


def failure(item):
    """What the result of a step that did not succeed says; None when it did."""
    if item.get("type") == "tool_result":
        return json.dumps(item["content"]) if item.get("is_error") else None
    output = str(item.get("output"))
    return None if re.search("exited with code 0|Exit code: 0", output) else output


def anthropic_message(request, script):
    """The answer to a Messages request."""
    tools = [tool.get("name") for tool in request.get("tools", [])]
    done, step = step_due(script, tools, request)
    if "tool" in step:
        arguments = {key: value for key, value in step.items() if key != "tool"}
        if step["tool"] == "Bash":
            arguments.setdefault("description", "a step of the script")
        block = {"type": "tool_use", "id": f"toolu_{done:04}", "name": step["tool"], "input": arguments}
    else:
        block = {"type": "text", "text": step["text"]}
    return {
        "id": f"msg_{done:04}",
        "type": "message",
        "role": "assistant",
        "model": request.get("model", "lab"),
        "content": [block],
        "stop_reason": "tool_use" if "tool" in step else "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 1000 + done, "output_tokens": 50 + done},
    }


def anthropic_events(message):
    """A message as the stream of events that brings it."""
    (block,) = message["content"]
    if block["type"] == "text":
        empty, delta = {**block, "text": ""}, {"type": "text_delta", "text": block["text"]}
    else:
        empty, delta = {**block, "input": {}}, {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
    yield {"type": "message_start", "message": {**message, "content": [], "stop_reason": None}}
    yield {"type": "content_block_start", "index": 0, "content_block": empty}
    yield {"type": "content_block_delta", "index": 0, "delta": delta}
    yield {"type": "content_block_stop", "index": 0}
    yield {"type": "message_delta", "delta": {"stop_reason": message["stop_reason"], "stop_sequence": None}, "usage": message["usage"]}
    yield {"type": "message_stop"}


def openai_events(request, script):
    """The answer to a Responses request, as a stream of events."""
    tools = [tool.get("name") or tool.get("type") for tool in request.get("tools", [])]
    done, step = step_due(script, tools, request)
    if "tool" in step:
        name = step["tool"] if step["tool"] in tools else next((shell for shell in SHELLS if shell in tools), "shell")
        if name == "exec_command":
            arguments = {"cmd": step["command"], "yield_time_ms": 30000}
        elif name == "shell":
            arguments = {"command": ["bash", "-lc", step["command"]]}
        else:
            arguments = {key: value for key, value in step.items() if key != "tool"}
        item = {"type": "function_call", "id": f"fc_{done}", "call_id": f"call_{done}", "name": name, "arguments": json.dumps(arguments)}
    else:
        content = {"type": "output_text", "text": step["text"], "annotations": []}
        item = {"type": "message", "id": f"msg_{done}", "role": "assistant", "content": [content]}
    usage = {
        "input_tokens": 1000 + done,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 50 + done,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 1050 + 2 * done,
    }
    response = {"id": f"resp_{done}", "object": "response", "model": request.get("model", "lab"), "status": "in_progress", "output": []}
    yield {"type": "response.created", "response": response}
    yield {"type": "response.output_item.added", "output_index": 0, "item": {**item, "status": "in_progress"}}
    item = {**item, "status": "completed"}
    yield {"type": "response.output_item.done", "output_index": 0, "item": item}
    yield {"type": "response.completed", "response": {**response, "status": "completed", "output": [item], "usage": usage}}


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    script = []

    def log_message(self, format, *args):
        print(self.command, self.path, *args[1:], flush=True)

    def answer(self, value):
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def stream(self, events):
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        for event in events:
            self.wfile.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
        self.close_connection = True

    def do_GET(self):
        self.answer({"object": "list", "data": [], "models": []} if "models" in self.path else {})

    def do_HEAD(self):
        self.answer({})

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers.get("content-length") or 0)) or b"{}")
        path = self.path.split("?")[0]
        if path.endswith("/metrics"):
            # Codex waits for this at its end, while its other threads close their databases. Were it answered at once, the
            # end would cut them off in the middle of calls, and no trace says whether those were done.
            time.sleep(1)
        print("tools", [tool.get("name") or tool.get("type") for tool in request.get("tools", [])], flush=True)
        for item in results(request):
            if (what := failure(item)) is not None:
                print("failed:", what, flush=True)
        if path.endswith("/responses"):
            self.stream(openai_events(request, self.script))
        elif path.endswith("/messages"):
            message = anthropic_message(request, self.script)
            if request.get("stream"):
                self.stream(anthropic_events(message))
            else:
                self.answer(message)
        elif path.endswith("/count_tokens"):
            self.answer({"input_tokens": 10})
        else:
            self.answer({})


def main(port, script, work):
    with open(script) as file:
        Handler.script = json.loads(file.read().replace("{work}", work))
    raise_loopback()
    ThreadingHTTPServer.daemon_threads = True
    ThreadingHTTPServer(("127.0.0.1", int(port)), Handler).serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
