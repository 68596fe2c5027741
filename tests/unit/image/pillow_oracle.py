"""Writes pictures and what Pillow (or transformers) makes of them: pillow_oracle.py MODE FOLDER."""

import io
import json
import os
import random
import struct
import sys
import warnings
import zlib

import numpy as np
from PIL import Image, ImageOps

MODE, FOLDER = sys.argv[1], sys.argv[2]
cases = []


def save(name, data):
    with open(os.path.join(FOLDER, name), "wb") as file:
        file.write(data)


def scene(width, height, seed):
    """Smooth colours with edges and noise: neither flat nor white noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    planes = [127 + 90 * np.sin(x / (3 + 5 * c) + y / (7 - c)) + 25 * ((x // 9 + y // 7) % 2) for c in range(3)]
    pixels = np.stack(planes, -1) + rng.normal(0, 9, (height, width, 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def raw_png(width, height, bits, color, rows, extra=b""):
    head = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    body = b"".join(b"\0" + row for row in rows)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + extra + chunk(b"IDAT", zlib.compress(body)) +
            chunk(b"IEND", b""))


def add_decoded(name, data, transpose=False):
    image = Image.open(io.BytesIO(data))
    if transpose:
        image = ImageOps.exif_transpose(image)
    image = image.convert("RGB")
    save(name, data)
    save(name + ".rgb", image.tobytes())
    cases.append({"name": name, "width": image.width, "height": image.height, "transpose": transpose})


def encode(image, format, **options):
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def jpeg_cases():
    for size in [(1, 1), (7, 5), (16, 16), (33, 47), (200, 131)]:
        for subsampling in ["4:4:4", "4:2:2", "4:2:0"]:
            for progressive in [False, True]:
                data = encode(scene(*size, 1), "JPEG", quality=87, subsampling=subsampling, progressive=progressive)
                add_decoded(f"{size[0]}x{size[1]}_{subsampling.replace(':', '')}_{progressive}.jpg", data)
    for quality in [1, 30, 75, 100]:
        add_decoded(f"quality{quality}.jpg", encode(scene(61, 40, 2), "JPEG", quality=quality, optimize=True))
    add_decoded("restart.jpg", encode(scene(90, 70, 3), "JPEG", restart_marker_blocks=3))
    add_decoded("gray.jpg", encode(scene(37, 29, 4).convert("L"), "JPEG"))
    add_decoded("gray_progressive.jpg", encode(scene(37, 29, 4).convert("L"), "JPEG", progressive=True))
    add_decoded("cmyk.jpg", encode(scene(45, 31, 5).convert("CMYK"), "JPEG"))
    ink = Image.merge("CMYK", [scene(45, 31, 6 + i).getchannel(i % 3) for i in range(4)])
    add_decoded("cmyk_ink.jpg", encode(ink, "JPEG", quality=95))
    add_decoded("rgb_stored.jpg", encode(scene(40, 30, 9), "JPEG", keep_rgb=True))
    add_decoded("comment.jpg", encode(scene(20, 20, 9), "JPEG", comment=b"\xff\xd9 not an end \xff\xda"))
    add_decoded("stray_tail.jpg", encode(scene(20, 20, 9), "JPEG") + b"\0\1\2 stray bytes")


def png_cases():
    picture = scene(53, 38, 10)
    add_decoded("rgb.png", encode(picture, "PNG"))
    add_decoded("one.png", encode(scene(1, 1, 10), "PNG"))
    for mode in ["L", "1", "LA", "RGBA"]:
        add_decoded(f"mode_{mode}.png", encode(picture.convert(mode), "PNG"))
    alpha = picture.copy()
    alpha.putalpha(scene(53, 38, 11).getchannel(0))
    add_decoded("alpha.png", encode(alpha, "PNG"))
    add_decoded("gray_alpha.png", encode(alpha.convert("LA"), "PNG"))
    for colors in [2, 4, 16, 200]:
        quantized = picture.quantize(colors)
        add_decoded(f"palette{colors}.png", encode(quantized, "PNG"))
        add_decoded(f"palette{colors}_clear.png", encode(quantized, "PNG", transparency=1))
    add_decoded("transparent_color.png", encode(picture, "PNG", transparency=(1, 2, 3)))
    rng = np.random.default_rng(12)
    for bits, color, channels in [(16, 0, 1), (16, 2, 3), (16, 4, 2), (16, 6, 4), (2, 0, 1), (4, 0, 1), (1, 0, 1)]:
        row_bytes = (21 * bits * channels + 7) // 8
        rows = [rng.integers(0, 256, row_bytes, dtype=np.uint8).tobytes() for _ in range(13)]
        add_decoded(f"raw_{bits}_{color}.png", raw_png(21, 13, bits, color, rows))
    short = chunk(b"PLTE", bytes(range(30, 30 + 9)))  # three entries, but pixels up to 15
    rows = [bytes([0x01, 0x23, 0xF2, 0x10]) for _ in range(3)]
    add_decoded("short_palette.png", raw_png(8, 3, 4, 3, rows, short))
    add_decoded("gamma.png", raw_png(4, 1, 8, 2, [bytes(range(12))], chunk(b"gAMA", struct.pack(">I", 100000))))


def interlaced_cases():
    """Adam7, written here because Pillow does not write it."""
    width, height = 19, 14
    pixels = np.asarray(scene(width, height, 13))
    rows = []
    for x0, y0, dx, dy in [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
                           (0, 1, 1, 2)]:
        rows += [part.tobytes() for part in pixels[y0::dy, x0::dx]]
    data = bytearray(raw_png(width, height, 8, 2, rows))
    data[28] = 1
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    add_decoded("interlaced.png", bytes(data))


def exif_cases():
    for orientation in range(0, 10):
        exif = Image.Exif()
        exif[0x010E] = "a description before the tag"
        exif[0x0112] = orientation
        for extension, format in [("jpg", "JPEG"), ("png", "PNG")]:
            data = encode(scene(23, 14, 14), format, exif=exif.tobytes())
            add_decoded(f"exif{orientation}.{extension}", data, transpose=True)
            add_decoded(f"exif{orientation}_stored.{extension}", data)


def decode():
    jpeg_cases()
    png_cases()
    interlaced_cases()
    exif_cases()


def verdict(data):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Image.open(io.BytesIO(data)).convert("RGB")
    except (OSError, SyntaxError, ValueError, struct.error):
        return None


def damaged():
    """Files cut at many places, with whether Pillow reads them."""
    sources = {
        "baseline.jpg": encode(scene(64, 48, 20), "JPEG"),
        "progressive.jpg": encode(scene(64, 48, 20), "JPEG", progressive=True),
        "restart.jpg": encode(scene(64, 48, 20), "JPEG", restart_marker_blocks=2),
        "rgb.png": encode(scene(64, 48, 20), "PNG"),
        "palette.png": encode(scene(64, 48, 20).quantize(16), "PNG"),
    }
    for name, data in sources.items():
        stops = sorted(set(list(range(1, len(data), max(1, len(data) // 60))) + list(range(len(data) - 24, len(data)))))
        for stop in stops:
            image = verdict(data[:stop])
            stem, extension = name.split(".")
            cut = f"{stem}_{stop}.{extension}"
            save(cut, data[:stop])
            if image is not None:
                save(cut + ".rgb", image.tobytes())
            cases.append({"name": cut, "accepted": image is not None, "missing": len(data) - stop, "width": 64,
                          "height": 48})


def resize():
    random.seed(30)
    # A side has at most one change of more than 60 to keep the case files small.
    sizes = [((w, h), (ow, oh)) for w, h, ow, oh in
             [(1, 1, 1, 1), (1, 1, 7, 5), (1, 9, 4, 1), (9, 1, 1, 4), (2, 2, 3, 3), (3, 3, 2, 2), (50, 40, 24, 24),
              (24, 24, 24, 11), (24, 24, 11, 24), (640, 480, 24, 24), (24, 24, 200, 170), (300, 2, 5, 90),
              (1000, 3, 1, 1), (333, 517, 336, 336), (36, 64, 24, 24), (7, 100, 8, 99)]]
    for w, h, ow in [(40, 60, 30), (30, 90, 40), (60, 60, 50), (90, 40, 85)]:  # around the order's change
        sizes += [((w, h), (ow, oh)) for oh in sorted({h - 2 * (w - ow) + d for d in (-1, 0, 1)} | {h - 1, h + 1})]
    for _ in range(70):
        sizes.append(((random.randint(1, 130), random.randint(1, 130)), (random.randint(1, 130), random.randint(1, 130))))
    for number, ((w, h), (ow, oh)) in enumerate(sizes):
        pixels = np.random.default_rng(number).integers(0, 256, (h, w, 3), dtype=np.uint8)
        if number % 3 == 0:
            pixels = np.where(pixels > 127, 255, 0).astype(np.uint8)  # overshoot to be clamped
        image = Image.fromarray(pixels)
        save(f"{number}.rgb", image.tobytes())
        for name, filter in [("bicubic", Image.BICUBIC), ("bilinear", Image.BILINEAR)]:
            save(f"{number}_{name}.rgb", image.resize((ow, oh), filter).tobytes())
        cases.append({"number": number, "width": w, "height": h, "out_width": ow, "out_height": oh})


def processors():
    import torch
    torch.set_num_threads(1)
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
    clip = CLIPImageProcessorPil(size={"shortest_edge": 36}, crop_size={"height": 36, "width": 36})
    odd_clip = CLIPImageProcessorPil(size={"shortest_edge": 20}, crop_size={"height": 37, "width": 26})
    siglip = SiglipImageProcessorPil(size={"height": 24, "width": 24}, resample=3)
    for number, size in enumerate([(50, 41), (33, 90), (24, 24), (101, 20), (36, 37)]):
        image = scene(*size, 40 + number)
        save(f"{number}.rgb", image.tobytes())
        row = {"number": number, "width": size[0], "height": size[1]}
        for name, processor in [("clip", clip), ("odd_clip", odd_clip), ("siglip", siglip)]:
            values = np.asarray(processor(image, return_tensors="np")["pixel_values"][0], dtype=np.float32)
            save(f"{number}_{name}.f32", values.tobytes())
            row[name] = list(values.shape)
        row["mean"], row["std"] = clip.image_mean, clip.image_std
        cases.append(row)


def encoded():
    """Checks the files that the C++ side wrote beside what it meant."""
    for name in sorted(os.listdir(FOLDER)):
        if not name.endswith((".png", ".jpg")):
            continue
        image = Image.open(os.path.join(FOLDER, name))
        assert image.mode == "RGB", name
        with open(os.path.join(FOLDER, name + ".rgb"), "rb") as file:
            want = file.read()
        if name.endswith(".png"):
            assert image.tobytes() == want, name
        else:
            # The same picture through Pillow's encoder gives the same coefficients, so the same pixels.
            quality, subsampling = name.split(".")[0].split("_")[1:]
            source = Image.frombytes("RGB", image.size, want)
            again = Image.open(io.BytesIO(encode(source, "JPEG", quality=int(quality), subsampling=int(subsampling))))
            assert image.tobytes() == again.tobytes(), name
        cases.append(name)
    assert cases


{"decode": decode, "damaged": damaged, "resize": resize, "processors": processors, "encoded": encoded}[MODE]()
with open(os.path.join(FOLDER, "cases.json"), "w") as file:
    json.dump(cases, file)
