"""The other programs, each as a worker that the bench starts and calls in turn.

`peers.py NAME DATA [PRECISION]` loads what it needs, prints `ready`, and for every line `JOB N`
that it reads does that job over N rows and prints the seconds that it took. What it reads is in
DATA (see data.py); how the runs alternate and what is made of the seconds is bench.py's affair.
"""

import os
import sys
import time
from pathlib import Path

import numpy as np

os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}

from data import MODEL  # noqa: E402

BATCH = 64
DTYPES = {"f32": "float32", "bf16": "bfloat16"}


def table(data):
    import pyarrow.parquet as pq

    return pq.read_table(data / "table.parquet")


def files(data):
    """The encoded photos, read before the clock starts."""
    return [(data / name).read_bytes() for name in table(data)["image_path"].to_pylist()]


def one_thread():
    import torch

    torch.set_num_threads(1)


# Decode and preprocess, on one core.


def preprocess_pillow(data):
    """transformers' processor over Pillow, one image after the other as in a Dataset."""
    import io

    from PIL import Image
    from transformers import CLIPImageProcessorPil

    one_thread()
    processor, photos = CLIPImageProcessorPil.from_pretrained(MODEL), files(data)

    def work(n):
        for photo in photos[:n]:
            processor(images=Image.open(io.BytesIO(photo)), return_tensors="pt")

    return {"preprocess": work}


MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]


def preprocess_torchvision(data, upto="tensor"):
    """torchvision's own decoder and its antialiased resize on u8, up to the cropped u8 pixels
    (`pixels`) or to what a model takes (`tensor`)."""
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg
    from torchvision.transforms.v2 import functional as F

    one_thread()
    photos = [torch.frombuffer(bytearray(photo), dtype=torch.uint8) for photo in files(data)]

    def work(n):
        for photo in photos[:n]:
            image = decode_jpeg(photo, mode=ImageReadMode.RGB)
            image = F.resize(image, [224], F.InterpolationMode.BICUBIC, antialias=True)
            image = F.center_crop(image, [224, 224]).contiguous()
            if upto == "tensor":
                F.normalize(F.to_dtype(image, torch.float32, scale=True), MEAN, STD)

    return {"preprocess": work}


def preprocess_opencv(data, upto="tensor"):
    """OpenCV's decoder and its bicubic resize (which is not antialiased), up to the cropped u8
    RGB pixels (`pixels`) or to what a model takes (`tensor`), which takes numpy: as its users
    write it, or without a temporary array (`tuned`)."""
    import cv2

    mean = (np.array(MEAN, np.float32) * 255)[:, None, None]
    scale255 = (1 / (np.array(STD, np.float32) * 255))[:, None, None]

    cv2.setNumThreads(1)
    photos = [np.frombuffer(photo, np.uint8) for photo in files(data)]

    def work(n):
        for photo in photos[:n]:
            image = cv2.imdecode(photo, cv2.IMREAD_COLOR)
            height, width = image.shape[:2]
            scale = 224 / min(height, width)
            size = max(224, int(width * scale)), max(224, int(height * scale))
            image = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
            top, left = (size[1] - 224) // 2, (size[0] - 224) // 2
            image = cv2.cvtColor(image[top:top + 224, left:left + 224], cv2.COLOR_BGR2RGB)
            if upto == "tensor":
                image = image.astype(np.float32) / 255
                ((image - np.float32(MEAN)) / np.float32(STD)).transpose(2, 0, 1).copy()
            elif upto == "tuned":
                tensor = np.ascontiguousarray(image.transpose(2, 0, 1), np.float32)
                np.multiply(np.subtract(tensor, mean, tensor), scale255, tensor)

    return {"preprocess": work}


# The towers, on every core.


def load_hf(precision):
    import torch
    from transformers import CLIPModel

    return CLIPModel.from_pretrained(MODEL, dtype=getattr(torch, DTYPES[precision])).eval()


def pixels(precision):
    """A batch of normalised pixels. Any do: speed does not depend on them."""
    import torch

    seeded = torch.Generator().manual_seed(7)
    shape = (BATCH, 3, 224, 224)
    return torch.randn(shape, generator=seeded).to(getattr(torch, DTYPES[precision]))


def image_tower():
    """transformers' image tower as a module of one input."""
    import torch

    class Tower(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = load_hf("f32")

        def forward(self, x):
            return self.model.get_image_features(pixel_values=x).pooler_output

    return Tower()


def compiled(_, precision):
    """torch.compile with frozen weights."""
    import torch
    import torch._inductor.config as inductor

    inductor.freezing = True
    model, x = load_hf(precision), pixels(precision)
    forward = torch.compile(lambda x: model.get_image_features(pixel_values=x).pooler_output)

    def image(n):
        with torch.no_grad():
            for _ in range(0, n, BATCH):
                forward(x).float().numpy()

    return {"image": image}


def openvino(data, precision):
    """OpenVINO as it comes, with its precision hint."""
    import openvino as ov
    import torch

    path = data.parent / "image_openvino.xml"
    if not path.exists():
        with torch.no_grad():
            converted = ov.convert_model(image_tower(), example_input=torch.zeros(2, 3, 224, 224))
        converted.reshape([BATCH, 3, 224, 224])
        ov.save_model(converted, path, compress_to_fp16=False)
    hints = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY",
             "INFERENCE_NUM_THREADS": len(os.sched_getaffinity(0)), "ENABLE_HYPER_THREADING": True}
    request = ov.Core().compile_model(path, "CPU", hints).create_infer_request()
    x = pixels("f32").numpy()

    def image(n):
        for _ in range(0, n, BATCH):
            request.infer(x)

    return {"image": image}


def onnxruntime_int8(data, _):
    """ONNX Runtime, dynamic int8."""
    import onnxruntime
    import torch
    from onnxruntime.quantization import quantize_dynamic

    path = data.parent / "image_int8.onnx"
    if not path.exists():
        plain = data.parent / "image.onnx"
        torch.onnx.export(image_tower(), (torch.zeros(BATCH, 3, 224, 224),), plain, dynamo=False)
        quantize_dynamic(plain, path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    x, name = pixels("f32").numpy(), session.get_inputs()[0].name

    def image(n):
        for _ in range(0, n, BATCH):
            session.run(None, {name: x})

    return {"image": image}


# From the table to the table.


class Photos:
    """Rows as a torch DataLoader wants them."""

    def __init__(self, data, names, transform):
        self.data, self.names, self.transform = data, names, transform

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        from PIL import Image

        return self.transform(Image.open(self.data / self.names[index]))


def score_table(data, n, transform, encode):
    """The script that people write: a DataLoader of two workers, the model, one table out."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch

    rows = table(data).slice(0, n)
    captions = rows["caption"].to_pylist()
    photos = Photos(data, rows["image_path"].to_pylist(), transform)
    loader = torch.utils.data.DataLoader(photos, batch_size=BATCH, num_workers=2)
    columns = {"image_embedding": [], "text_embedding": [], "score": []}
    with torch.inference_mode():
        for index, batch in enumerate(loader):
            image, text = encode(batch, captions[index * BATCH:(index + 1) * BATCH])
            image, text = [torch.nn.functional.normalize(x.float(), dim=-1) for x in (image, text)]
            columns["image_embedding"].extend(image.numpy())
            columns["text_embedding"].extend(text.numpy())
            columns["score"].extend((image * text).sum(-1).tolist())
    for name, values in columns.items():
        rows = rows.append_column(name, pa.array(list(values)))
    pq.write_table(rows, data.parent / "peer.parquet")


def hf(data, precision):
    """transformers: its towers alone, and behind a DataLoader over Pillow. Shuffled captions are
    padded to the longest of their batch; tokenizing counts."""
    import torch
    from transformers import AutoTokenizer, CLIPImageProcessorPil

    model, tokenizer = load_hf(precision), AutoTokenizer.from_pretrained(MODEL)
    processor = CLIPImageProcessorPil.from_pretrained(MODEL)
    x, captions = pixels(precision), table(data)["caption"].to_pylist()

    def encode_text(captions):
        ids = tokenizer(captions, truncation=True, max_length=77, padding=True,
                        return_tensors="pt")
        return model.get_text_features(**ids).pooler_output

    def encode_image(batch):
        return model.get_image_features(pixel_values=batch.to(model.dtype)).pooler_output

    def image(n):
        with torch.inference_mode():
            for _ in range(0, n, BATCH):
                encode_image(x).float().numpy()

    def text(n):
        with torch.inference_mode():
            for start in range(0, n, BATCH):
                encode_text(captions[start:start + BATCH]).float().numpy()

    def transform(image):
        return processor(images=image, return_tensors="pt")["pixel_values"][0]

    def run(n):
        score_table(data, n, transform, lambda batch, captions: (encode_image(batch),
                                                                 encode_text(captions)))

    return {"image": image, "text": text, "run": run}


def open_clip(data, precision):
    """open_clip's own ViT-B/32, transform and tokenizer behind a DataLoader."""
    import open_clip

    precision = {"f32": "fp32"}.get(precision, precision)
    model, _, transform = open_clip.create_model_and_transforms("ViT-B-32", precision=precision)
    model, tokenizer = model.eval(), open_clip.get_tokenizer("ViT-B-32")
    dtype = next(model.parameters()).dtype

    def encode(batch, captions):
        return model.encode_image(batch.to(dtype)), model.encode_text(tokenizer(captions))

    return {"run": lambda n: score_table(data, n, transform, encode)}


WORKERS = {function.__name__.replace("_", "-"): function for function in [
    preprocess_pillow, preprocess_torchvision, preprocess_opencv, compiled, openvino,
    onnxruntime_int8, hf, open_clip]}


def main():
    name, data, *more = sys.argv[1:]
    jobs = WORKERS[name](Path(data), *more)
    print("ready", flush=True)
    for line in sys.stdin:
        job, n = line.split()
        started = time.perf_counter()
        jobs[job](int(n))
        print(time.perf_counter() - started, flush=True)


if __name__ == "__main__":
    main()
