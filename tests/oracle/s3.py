"""An S3 of moto on a loopback port, and boto3 to look at it with.

Prints the port, then answers each line of stdin with one of stdout, JSON both, until stdin is closed.
Keys begin with the bucket, which is made where it is missing:

    {"put": "bucket/key", "file": path}      {"delete": "bucket/key"}
    {"list": "bucket/prefix"}                {"mirror": "bucket/prefix", "folder": path}
    {"uploads": "bucket"}                    {"stop_at": "bucket/key"}
    {"asked": null}

`stop_at` stops the process when that object is about to be put, until it gets SIGCONT; once. `asked` gives
the requests since it was last asked, as "GET /bucket/key".
"""

import json
import os
import pathlib
import signal
import sys

import boto3
from moto.server import ThreadedMotoServer
from werkzeug.serving import WSGIRequestHandler

stop_at = None
asked_for = []
serve = WSGIRequestHandler.run_wsgi


def serve_or_stop(request):
    global stop_at
    asked_for.append(f"{request.command} {request.path.partition('?')[0]}")
    if request.command == "PUT" and request.path.partition("?")[0] == stop_at:
        stop_at = None
        os.kill(os.getpid(), signal.SIGSTOP)
    serve(request)


WSGIRequestHandler.run_wsgi = serve_or_stop
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
_, port = server.get_host_and_port()
client = boto3.client(
    "s3",
    endpoint_url=f"http://127.0.0.1:{port}",
    region_name="us-east-1",
    aws_access_key_id="key",
    aws_secret_access_key="secret",
)


def place(url):
    bucket, _, key = url.partition("/")
    client.create_bucket(Bucket=bucket)
    return {"Bucket": bucket, "Key": key}


def listed(url):
    where = place(url)
    pages = client.get_paginator("list_objects_v2").paginate(
        Bucket=where["Bucket"], Prefix=where["Key"]
    )
    return {entry["Key"]: entry["Size"] for page in pages for entry in page.get("Contents", [])}


def answer(asked):
    global stop_at
    if "put" in asked:
        client.put_object(**place(asked["put"]), Body=pathlib.Path(asked["file"]).read_bytes())
    elif "list" in asked:
        return listed(asked["list"])
    elif "delete" in asked:
        client.delete_object(**place(asked["delete"]))
    elif "uploads" in asked:
        place(asked["uploads"])
        return len(client.list_multipart_uploads(Bucket=asked["uploads"]).get("Uploads", []))
    elif "stop_at" in asked:
        stop_at = "/" + asked["stop_at"]
    elif "asked" in asked:
        requests = asked_for[:]
        del asked_for[: len(requests)]
        return requests
    elif "mirror" in asked:
        # Everything beneath a prefix, as files.
        where = place(asked["mirror"])
        for key in listed(asked["mirror"]):
            to = pathlib.Path(asked["folder"]) / key.removeprefix(where["Key"]).lstrip("/")
            to.parent.mkdir(parents=True, exist_ok=True)
            body = client.get_object(Bucket=where["Bucket"], Key=key)["Body"].read()
            to.write_bytes(body)
    return None


print(port, flush=True)
for line in sys.stdin:
    print(json.dumps(answer(json.loads(line))), flush=True)
server.stop()
