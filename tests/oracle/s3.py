"""An S3 of moto on a loopback port, with a bucket of the sample's images in it.

    s3.py IMAGES_DIR

Prints the port, then serves until stdin is closed.
"""

import pathlib
import sys

import boto3
from moto.server import ThreadedMotoServer

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
client.create_bucket(Bucket="images")
for path in sorted(pathlib.Path(sys.argv[1]).iterdir())[:20]:
    client.put_object(Bucket="images", Key=f"a folder/{path.name}", Body=path.read_bytes())
client.put_object(Bucket="images", Key="large", Body=bytes(300_000))
print(port, flush=True)
sys.stdin.read()
server.stop()
