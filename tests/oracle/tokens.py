"""Token ids by transformers' CLIPTokenizer for odd captions, for tests/tokens.rs.

Usage: tokens.py MODEL_DIR OUT.jsonl CONTEXT [CAPTION_FILE...]

Captions are made from a fixed seed; caption files (.jsonl of {"caption"}, .json lists, .txt lines)
add theirs. Each line of OUT: {"caption", "ids", "all"}, `ids` truncated to CONTEXT and `all` not.
"""

import json
import random
import sys
from pathlib import Path

from transformers import CLIPTokenizerFast

WORDS = """a photo of the cat dog red BLUE Street-sign isn't we're I'VE can't it'll you'd 'tis rock'n'roll
naïve café CAFÉ Ångström straße ẞ İstanbul ΣΊΣΥΦΟΣ ПРИВЕТ мир 你好世界 日本語テキスト 한국어 हिन्दी עברית العربية
ไทย 👍🏽 👨‍👩‍👧‍👦 🇨🇭 ❤️ ☕ ﬁne Ⅷ ① ½ ² ٣ 三 1 12 1234567890 3.14 1,000 $5 50% #tag @user http://a.b/c?d=e&f=g
... --- !!! ?! <b> </b> &amp; \\n C:\\dir a_b a-b 'quoted' "double" (x) [y] {z} ~`^|""".split()
PIECES = ["\u0301", "e\u0301", "\u200b", "\u200d", "\ufeff", "\u00a0", "\u3000", "\u2028", "\u202e", "\x00",
          "\x01", "\x07", "\x1b[0m", "\x7f", "\x85", "\t", "\n", "\r\n", "\v", "\f", "\x1c", "\x1f", "\ufffd",
          "\U0001f600", "\U00020000", "\U000e0041", "'s", "'S", "'t", "'re", "'ll", "\u2019s", "ſ", "K", "ǅ",
          "\u0130", "\u0345", "\u1e9e", "\u0958", "\u212b", "\u1100\u1161", "\u05d0\u05b0", "\ud7a3", "ﷺ"]
CONTROL = ["<|endoftext|>", "<|startoftext|>", "<|ENDOFTEXT|>", "<|endoftext|", "|endoftext|>", "<|end of text|>",
           "<|endoftext|><|endoftext|>", "a<|endoftext|>b", "<|startoftext|> a <|endoftext|> b", "</w>",
           "x</w>", "<|endoftext|></w>", "!<|endoftext|>!", "<|pad|>", " <|endoftext|>", "<|EndOfText|>x"]


def made(rng):
    yield from CONTROL
    yield from PIECES
    yield from WORDS
    yield from ["", " ", "\t\n", "\u3000", "a" * 500, "!" * 300, "the " * 400, "é" * 200, "😀" * 100, "1" * 200,
                "\x00" * 50, " a", "a ", "  a  b  ", "don't", "DON'T", "don’t", "'", "''s", "'s's", "s's"]
    for _ in range(400):
        n = rng.randint(1, 24)
        parts = [rng.choice(WORDS if rng.random() < 0.7 else PIECES) for _ in range(n)]
        yield "".join(part + rng.choice(["", " ", " ", "  ", "\n"]) for part in parts)
    for _ in range(150):
        yield "".join(chr(random_scalar(rng)) for _ in range(rng.randint(1, 40)))
    for _ in range(30):
        parts = [rng.choice(WORDS + CONTROL) for _ in range(rng.randint(1, 9))]
        yield rng.choice(["", " "]).join(parts)


def random_scalar(rng):
    """A code point of a random plane and block, never a surrogate."""
    while True:
        point = rng.randrange(0, 1 << rng.choice([7, 8, 11, 14, 16, 17, 20]))
        if not 0xD800 <= point < 0xE000:
            return point


def read(path):
    text = path.read_text(encoding="utf-8", errors="replace")
    if path.suffix == ".json":
        yield from (item for item in json.loads(text) if isinstance(item, str))
    elif path.suffix == ".jsonl":
        yield from (json.loads(line)["caption"] for line in text.splitlines())
    else:
        yield from text.split("\n")


def main():
    model, out, context = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    tokenizer = CLIPTokenizerFast.from_pretrained(model)
    captions = list(made(random.Random(20)))
    for path in sys.argv[4:]:
        captions.extend(read(Path(path)))
    captions = list(dict.fromkeys(captions))
    cut = tokenizer(captions, truncation=True, max_length=context)["input_ids"]
    whole = tokenizer(captions)["input_ids"]
    with out.open("w", encoding="ascii") as file:
        for caption, ids, all_ids in zip(captions, cut, whole):
            print(json.dumps(dict(caption=caption, ids=ids, all=len(all_ids))), file=file)


if __name__ == "__main__":
    main()
