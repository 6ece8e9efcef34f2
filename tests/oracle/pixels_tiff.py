"""TIFF files for pixels.py: Pillow's, and in tiles, planes, both byte orders and every depth."""

import struct
import zlib

import numpy as np
from PIL import Image

from pixels_files import RNG, image, picture, save


def tiff(tags, parts, order="<"):
    """tags: {number: (type, values)}; parts: strips or tiles, whose tags are added."""
    where, size = (324, 325) if 322 in tags else (273, 279)
    body, offsets = b"", []
    for part in parts:
        offsets.append(8 + len(body))
        body += part + b"\0" * (len(part) % 2)
    tags = {**tags, where: (4, offsets), size: (4, [len(part) for part in parts])}
    start = 8 + len(body)
    entries, tail = b"", b""
    tail_at = start + 2 + 12 * len(tags) + 4
    for number, (kind, values) in sorted(tags.items()):
        raw = struct.pack(f"{order}{len(values)}{'_BsHI'[kind]}", *values)
        if len(raw) > 4:
            entries += struct.pack(order + "HHII", number, kind, len(values), tail_at + len(tail))
            tail += raw + b"\0" * (len(raw) % 2)
        else:
            entries += struct.pack(order + "HHI", number, kind, len(values)) + raw.ljust(4, b"\0")
    magic = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, start)
    return magic + body + struct.pack(order + "H", len(tags)) + entries + b"\0\0\0\0" + tail


def tiff_strips(samples, bits, order, rows_per_strip):
    strips = []
    for top in range(0, len(samples), rows_per_strip):
        strip = b""
        for row in samples[top : top + rows_per_strip]:
            flat = row.reshape(-1)
            if bits == 16:
                strip += flat.astype(order + "u2").tobytes()
            else:
                planes = (flat[:, None] >> np.arange(bits - 1, -1, -1)) & 1
                strip += np.packbits(planes.reshape(-1).astype("u1")).tobytes()
        strips.append(strip)
    return strips


def hand_tiffs(size, order, number):
    kinds = [("gray", 1, (1, 2, 4, 8, 16), 1, None), ("white", 0, (1, 2, 4, 8, 16), 1, None), ("rgb", 2, (8, 16), 3, None),
             ("palette", 3, (1, 2, 4, 8), 1, None), ("cmyk", 5, (8, 16), 4, None), ("rgba", 2, (8, 16), 4, 2),
             ("rgba-premultiplied", 2, (8, 16), 4, 1), ("rgbx", 2, (8, 16), 4, 0), ("gray-alpha", 1, (8,), 2, 2)]
    for name, photometric, depths, n, extra in kinds:
        for bits in depths:
            samples = picture(size, n).astype(int)
            samples = samples * 257 if bits == 16 else samples >> (8 - bits)
            if bits == 16 and number % 2:
                samples //= 180
            tags = {256: (4, [size[0]]), 257: (4, [size[1]]), 258: (3, [bits] * n), 259: (3, [1]),
                    262: (3, [photometric]), 277: (3, [n]), 278: (4, [1 + number * 5])}
            if extra is not None:
                tags[338] = (3, [extra])
            if photometric == 3:
                tags[320] = (3, [int(v) for v in RNG.integers(0, 2**16, 3 * 2**bits)])
            strips = tiff_strips(samples, bits, order, 1 + number * 5)
            kind = f"tiff-{name}-{bits}" + ("-mm" if order == ">" else "")
            yield kind, tiff(tags, strips, order)
            yield f"{kind}-deflate", tiff({**tags, 259: (3, [8])}, [zlib.compress(s) for s in strips], order)
            if kind == "tiff-gray-8":
                turned = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
                reversed_strips = [strip.translate(turned) for strip in strips]
                yield "tiff-fill-order", tiff({**tags, 266: (3, [2])}, reversed_strips, order)
            if bits == 8:
                planes = [s for band in range(n) for s in tiff_strips(samples[..., band : band + 1], 8, order, 1 + number * 5)]
                if n > 1:
                    yield f"{kind}-planar", tiff({**tags, 284: (3, [2])}, planes, order)
                tile = 16
                padded = np.pad(samples, ((0, -size[1] % tile), (0, -size[0] % tile), (0, 0)))
                tiles = [padded[y : y + tile, x : x + tile].astype("u1").tobytes()
                         for y in range(0, size[1], tile) for x in range(0, size[0], tile)]
                tiled = {k: v for k, v in tags.items() if k != 278} | {322: (3, [tile]), 323: (3, [tile]), 259: (3, [8])}
                yield f"{kind}-tiled", tiff(tiled, [zlib.compress(t) for t in tiles], order)


def tiffs():
    for number, size in enumerate([(1, 1), (33, 64), (100, 75)]):
        for mode in ("1", "L", "P", "RGB", "RGBA", "CMYK", "LA", "I;16"):
            source = image(size, mode) if mode in ("RGBA", "CMYK", "LA") else image(size)
            if mode == "I;16":
                source = Image.fromarray(picture(size)[..., 0].astype(np.uint16) * (40 if number % 2 else 1))
            elif mode == "P":
                source = source.quantize(40)
            elif source.mode != mode:
                source = source.convert(mode)
            for packing in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"):
                yield f"tiff-{mode.replace(';', '')}-{packing}", save(source, "TIFF", compression=packing)
            if mode not in ("1", "P"):
                for packing in ("tiff_lzw", "tiff_adobe_deflate"):
                    yield f"tiff-{mode.replace(';', '')}-predictor", save(source, "TIFF", compression=packing, tiffinfo={317: 2})
            if mode in ("L", "RGB", "CMYK"):
                yield f"tiff-{mode}-jpeg", save(source, "TIFF", compression="jpeg")
        for order in "<>":
            yield from hand_tiffs(size, order, number)
    yield "tiff-fax", save(image((60, 40)).convert("1"), "TIFF", compression="group4")
    yield "tiff-float", save(image((60, 40), "L").convert("F"), "TIFF")
