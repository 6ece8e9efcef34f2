"""Image files of every kind that clipmill reads, for pixels.py.

Pillow writes what it can; the writers here make the rest: PNG of every depth, colour and
interlacing, BMP of every depth and run length. TIFF is in pixels_tiff.py.
"""

import io
import struct
import zlib

import numpy as np
from PIL import Image

RNG = np.random.default_rng(11)
SIZES = [(1, 1), (1, 9), (13, 1), (7, 5), (16, 16), (33, 64), (100, 75), (131, 97), (75, 300)]


def picture(size, bands=3):
    """Smooth enough for JPEG, noisy enough to tell decoders apart."""
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    planes = [np.sin(x / (5 + 3 * band)) * 70 + np.cos(y / (9 - 2 * band)) * 60 + 128 for band in range(bands)]
    noisy = np.stack(planes, -1) + RNG.normal(0, 14, (size[1], size[0], bands))
    return np.clip(noisy, 0, 255).astype(np.uint8)


def image(size, mode="RGB"):
    bands = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4, "CMYK": 4}[mode]
    pixels = picture(size, bands)
    return Image.fromarray(pixels[..., 0] if bands == 1 else pixels, mode)


def save(picture_, form, **options):
    out = io.BytesIO()
    picture_.save(out, form, **options)
    return out.getvalue()


def jpegs():
    for number, size in enumerate([*SIZES, (500, 375), (640, 31)]):
        rgb = image(size)
        for name, subsampling in (("444", 0), ("422", 1), ("420", 2)):
            yield f"jpeg-{name}", save(rgb, "JPEG", quality=60 + 5 * number % 40, subsampling=subsampling)
        yield "jpeg-progressive", save(rgb, "JPEG", progressive=True, quality=85)
        yield "jpeg-restart", save(rgb, "JPEG", restart_marker_blocks=1 + number, quality=50)
        yield "jpeg-gray", save(image(size, "L"), "JPEG", quality=80, progressive=bool(number % 2))
        yield "jpeg-rgb", save(rgb, "JPEG", keep_rgb=True, quality=90)
        cmyk = save(image(size, "CMYK"), "JPEG", quality=90)
        yield "jpeg-cmyk", cmyk
        # The last byte of Adobe's marker says how the four components were transformed.
        adobe = cmyk.index(b"Adobe") + 11
        yield "jpeg-ycck", cmyk[:adobe] + b"\2" + cmyk[adobe + 1 :]
    whole = save(image((90, 60)), "JPEG")
    yield "jpeg-no-end", whole[:-2]
    yield "jpeg-stray-bytes", whole[:-2] + b"\1\2\3\4" + whole[-2:]
    yield "jpeg-tail", whole + b"trailing bytes \xff\xd8\xff"
    quantisation = whole.index(b"\xff\xdb")
    yield "jpeg-stray-early", whole[:quantisation] + b"\0\1\2" + whole[quantisation:]
    piece = b"ICC_PROFILE\0\3\2" + b"x" * 40
    icc = b"\xff\xe2" + struct.pack(">H", len(piece) + 2) + piece
    yield "jpeg-icc-in-pieces", whole[:quantisation] + icc + whole[quantisation:]
    yield "jpeg-icc", save(image((40, 30)), "JPEG", icc_profile=b"no profile at all" * 9)
    yield "cut-jpeg-tables", whole[:2] + whole[quantisation : whole.index(b"\xff\xc0")] + b"\xff\xd9"
    yield from jpegs_of_which_a_crop_leaves_out_parts()


def jpegs_of_which_a_crop_leaves_out_parts():
    """What is cut off or missing lies outside of what a centre crop keeps."""
    for size in ((300, 500), (500, 300)):
        for options in ({"subsampling": 2}, {"subsampling": 0}, {"restart_marker_blocks": 8}):
            whole = save(image(size), "JPEG", quality=80, **options)
            yield "jpeg-420" if options.get("subsampling") else "jpeg-large", whole
            yield "cut-jpeg-no-end", whole[:-2]
            yield "cut-jpeg-late", whole[: int(len(whole) * 0.97)]
            yield "cut-jpeg-late", whole[: int(len(whole) * 0.97)] + b"\xff\xd9"
        gray = save(image(size, "L"), "JPEG")
        yield "cut-jpeg-no-end", gray[:-2]
        # Of the scans only the first, which has no more than each block's mean.
        for subsampling in (0, 2):
            whole = save(image(size), "JPEG", progressive=True, subsampling=subsampling)
            first = whole.index(b"\xff\xda")
            second = min(at for at in (whole.find(b"\xff\xc4", first), whole.find(b"\xff\xda", first + 2)) if at > 0)
            yield "jpeg-first-scan", whole[:second] + b"\xff\xd9"


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(samples, depth, colour, interlaced=False, extra=b""):
    """samples: [height, width, channels] of `depth` bits; rows are filtered at random."""
    height, width, channels = samples.shape

    def rows(part):
        out = b""
        step = max(1, channels * depth // 8)
        previous = None
        for row in part:
            bits = row.reshape(-1)
            if depth == 16:
                raw = bits.astype(">u2").tobytes()
            elif depth == 8:
                raw = bits.astype("u1").tobytes()
            else:
                planes = (bits[:, None] >> np.arange(depth - 1, -1, -1)) & 1
                raw = np.packbits(planes.reshape(-1).astype("u1")).tobytes()
            line = np.frombuffer(raw, "u1").astype(int)
            left = np.concatenate([np.zeros(step, int), line])[: len(line)]
            up = previous if previous is not None else np.zeros(len(line), int)
            kind = int(RNG.integers(0, 4))
            guess = [0 * line, left, up, (left + up) // 2][kind]
            out += bytes([kind]) + ((line - guess) % 256).astype("u1").tobytes()
            previous = line
        return out

    if interlaced:
        passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
        parts = [samples[y::dy, x::dx] for x, y, dx, dy in passes]
        data = b"".join(rows(part) for part in parts if part.size)
    else:
        data = rows(samples)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(interlaced))
    packed = zlib.compress(data)
    body = chunk(b"IDAT", packed[: len(packed) // 2]) + chunk(b"IDAT", packed[len(packed) // 2 :])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + body + chunk(b"IEND", b"")


def pngs():
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
    depths = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
    names = {0: "gray", 2: "rgb", 3: "palette", 4: "graya", 6: "rgba"}
    for colour, n in channels.items():
        for depth in depths[colour]:
            for number, size in enumerate([(1, 1), (5, 9), (61, 40), (90, 131)]):
                samples = picture(size, n).astype(int)
                samples = samples * 257 + RNG.integers(-99, 99, samples.shape) if depth == 16 else samples >> (8 - depth)
                samples = np.clip(samples, 0, 2**depth - 1)
                if depth == 16 and number == 1:
                    samples //= 200  # Mostly under 256, where Pillow's I;16 does not saturate.
                extra, name = b"", names[colour]
                if colour == 3:
                    # Sometimes too short for the indices.
                    entries = 2**depth if number != 2 else max(1, 2**depth - 3)
                    extra = chunk(b"PLTE", RNG.integers(0, 256, entries * 3, dtype=np.uint8).tobytes())
                    if number % 2:
                        extra += chunk(b"tRNS", RNG.integers(0, 256, max(1, entries // 2), dtype=np.uint8).tobytes())
                        name += "-trns"
                    elif number == 2:
                        extra += chunk(b"tRNS", b"\xff\0")
                        name += "-trns"
                elif colour in (0, 2) and number % 2:
                    middle = samples[size[1] // 2, size[0] // 2]
                    extra = chunk(b"tRNS", struct.pack(f">{n}H", *map(int, middle)))
                    name += "-trns"
                yield f"png-{name}-{depth}", png(samples, depth, colour, number == 3, extra)
    for size in SIZES:
        yield "png-interlaced", png(picture(size), 8, 2, True)
        yield "png-rgba-pillow", save(image(size, "RGBA"), "PNG")
        yield "png-la-pillow", save(image(size, "LA"), "PNG")
    frames = [image((50, 40), "RGBA") for _ in range(3)]
    yield "png-animated", save(frames[0], "PNG", save_all=True, append_images=frames[1:])
    yield "png-gamma", png(picture((30, 20)), 8, 2, False, chunk(b"gAMA", struct.pack(">I", 45455)))
    whole = png(picture((30, 20)), 8, 2)
    yield "png-no-end", whole[:-12]


def webps():
    for number, size in enumerate([*SIZES, (500, 375)]):
        for mode, name in (("RGB", ""), ("RGBA", "-alpha")):
            yield f"webp-lossy{name}", save(image(size, mode), "WEBP", quality=20 + 8 * number, method=number % 7)
            yield f"webp-lossless{name}", save(image(size, mode), "WEBP", lossless=True)
        frames = [image(size, "RGBA") for _ in range(2)]
        yield "webp-animated", save(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=bool(number % 2))
        frames = [image(size) for _ in range(2)]
        yield "webp-animated-opaque", save(frames[0], "WEBP", save_all=True, append_images=frames[1:], quality=70)


def gifs():
    for number, size in enumerate(SIZES):
        indexed = image(size).quantize(2 ** (1 + number % 8))
        yield "gif", save(indexed, "GIF", interlace=number % 2)
        yield "gif-transparent", save(indexed, "GIF", transparency=number % 3)
        yield "gif-gray", save(image(size, "L"), "GIF")
        frames = [image(size).quantize(16) for _ in range(3)]
        yield "gif-animated", save(frames[0], "GIF", save_all=True, append_images=frames[1:])
        for name, options in (("gif-offset", {}), ("gif-offset-transparent", {"transparency": 1})):
            data = bytearray(save(indexed, "GIF", **options))
            frame = data.index(b",\0\0\0\0" + struct.pack("<HH", *size))
            struct.pack_into("<HH", data, frame + 1, number, 2)
            # Half of them on a larger screen, half sticking out of it.
            if number % 2:
                struct.pack_into("<HH", data, 6, size[0] + 9, size[1] + 4)
            yield name, bytes(data)


def bmp(size, bits, rows, colours=b"", compression=0, masks=b"", core=False, top_down=False, header=40, n_colours=0):
    if core:
        info = struct.pack("<IHHHH", 12, *size, 1, bits)
    else:
        height = -size[1] if top_down else size[1]
        info = struct.pack("<IiiHHIIiiII", header, size[0], height, 1, bits, compression, len(rows), 2835, 2835, n_colours, 0)
        info += (masks.ljust(header - 40, b"\0") if header > 40 else masks)
    offset = 14 + len(info) + len(colours)
    return b"BM" + struct.pack("<IHHI", offset + len(rows), 0, 0, offset) + info + colours + rows


def bmp_rows(samples, bits):
    """samples: [height, width] integers of `bits` bits, padded to four bytes a row."""
    out = b""
    for row in samples:
        if bits >= 8:
            raw = b"".join(int(v).to_bytes(bits // 8, "little") for v in row)
        else:
            planes = (row[:, None] >> np.arange(bits - 1, -1, -1)) & 1
            raw = np.packbits(planes.reshape(-1).astype("u1")).tobytes()
        out += raw + b"\0" * (-len(raw) % 4)
    return out


def rle(samples, four):
    out = b""
    for row in samples:
        at = 0
        while at < len(row):
            run = 1
            while at + run < len(row) and run < 255 and row[at + run] == row[at]:
                run += 1
            if run == 1 and len(row) - at >= 5:
                literal = [int(v) for v in row[at : at + 5]]
                if four:
                    literal_bytes = bytes([literal[0] << 4 | literal[1], literal[2] << 4 | literal[3], literal[4] << 4])
                else:
                    literal_bytes = bytes(literal)
                out += bytes([0, 5]) + literal_bytes + b"\0" * (len(literal_bytes) % 2)
                at += 5
                continue
            value = int(row[at])
            out += bytes([run, value << 4 | value if four else value])
            at += run
        out += b"\0\0"
    return out + b"\0\1"


def bmps():
    for number, size in enumerate(SIZES):
        width, height = size
        for mode in ("1", "L", "RGB"):
            yield f"bmp-{mode}", save(image(size).convert(mode), "BMP")
        yield "bmp-rgba", save(image(size, "RGBA"), "BMP")
        yield "bmp-P", save(image(size).quantize(50), "BMP")
        top_down = bool(number % 2)
        for bits in (1, 4, 8):
            samples = picture(size)[..., 0] >> (8 - bits)
            colours = RNG.integers(0, 256, (2**bits, 4), dtype=np.uint8).tobytes()
            yield f"bmp-palette-{bits}", bmp(size, bits, bmp_rows(samples, bits), colours, top_down=top_down)
            triples = RNG.integers(0, 256, (2**bits, 3), dtype=np.uint8).tobytes()
            yield f"bmp-core-{bits}", bmp(size, bits, bmp_rows(samples, bits), triples, core=True)
            if bits > 1:
                runs = rle(samples.astype(int) // 40 * 2 % 2**bits, bits == 4)
                yield f"bmp-rle-{bits}", bmp(size, bits, runs, colours, compression=1 if bits == 8 else 2)
        words = RNG.integers(0, 2**16, (height, width))
        yield "bmp-555", bmp(size, 16, bmp_rows(words, 16), top_down=top_down)
        masks = struct.pack("<III", 0xF800, 0x7E0, 0x1F)
        yield "bmp-565", bmp(size, 16, bmp_rows(words, 16), masks, compression=3)
        longs = RNG.integers(0, 2**32, (height, width))
        yield "bmp-32", bmp(size, 32, bmp_rows(longs, 32))
        for name, masks in (
            ("bgrx", (0xFF0000, 0xFF00, 0xFF, 0)),
            ("bgra", (0xFF0000, 0xFF00, 0xFF, 0xFF000000)),
            ("rgba", (0xFF, 0xFF00, 0xFF0000, 0xFF000000)),
            ("abgr", (0xFF000000, 0xFF0000, 0xFF00, 0xFF)),
            ("odd", (0xFF00, 0xFF0000, 0xFF, 0)),
        ):
            packed = struct.pack("<IIII", *masks)
            yield f"bmp-32-{name}", bmp(size, 32, bmp_rows(longs, 32), masks=packed, compression=3, header=108)


def exif_files():
    for orientation in range(0, 10):
        exif = Image.Exif()
        exif[0x0112] = orientation
        for form, options in (("JPEG", {}), ("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})):
            yield f"exif-{form.lower()}", f".{form.lower()}", save(image((23, 31)), form, exif=exif, **options)
        xmp = b'<x tiff:Orientation="%d"/>' % orientation
        yield "exif-xmp", ".jpg", save(image((23, 31)), "JPEG", xmp=xmp)
        big = Image.Exif()
        big.endian = ">"
        big[0x0112] = orientation
        yield "exif-big-endian", ".jpg", save(image((23, 31)), "JPEG", exif=big.tobytes())


def every_kind():
    """(kind, suffix, bytes) of each file."""
    from pixels_tiff import tiffs  # It needs this module.

    for suffix, makers in ((".jpg", jpegs), (".png", pngs), (".webp", webps), (".gif", gifs), (".bmp", bmps), (".tif", tiffs)):
        for kind, data in makers():
            yield kind, suffix, data
    yield from exif_files()
