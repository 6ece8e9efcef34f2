"""Compares `text_hidden_state` with what Stable Diffusion's pipelines take from transformers.

Arguments: the output folder, the model folder, the token that it fills captions up with. As in
`encode_prompt` of diffusers' StableDiffusionPipeline: captions filled up to the context, no
attention mask, the last hidden state after the last layer norm. Text embeddings of the same run
are compared too.
"""
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import AutoTokenizer, CLIPModel

out, model_dir, pad = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
table = pa.concat_tables([pq.read_table(part) for part in sorted(out.glob("part-*.parquet"))])
model = CLIPModel.from_pretrained(model_dir, dtype=torch.float32).eval()
tokenizer = AutoTokenizer.from_pretrained(model_dir)
assert tokenizer.pad_token == pad, tokenizer.pad_token
context, width = model.config.text_config.max_position_embeddings, model.config.text_config.hidden_size
kind = table.schema.field("text_hidden_state").type
assert str(kind).count("fixed_size_list") == 2, kind
worst, compared = {"states": 0.0, "embedding": 0.0}, 0
for row in table.to_pylist():
    if not row["caption"]:
        assert row["text_hidden_state"] is None, row
        continue
    ids = tokenizer(row["caption"], padding="max_length", max_length=context, truncation=True,
                    return_tensors="pt").input_ids
    with torch.no_grad():
        states = model.text_model(input_ids=ids).last_hidden_state[0].numpy()
        plain = tokenizer(row["caption"], truncation=True, max_length=context, return_tensors="pt")
        text = model.get_text_features(**plain)
    text = getattr(text, "pooler_output", text)[0]
    found = np.array(row["text_hidden_state"], dtype=np.float32)
    assert found.shape == (context, width) == states.shape, (found.shape, states.shape)
    text = (text / text.norm()).numpy()
    worst["states"] = max(worst["states"], float(np.abs(found - states).max()))
    worst["embedding"] = max(worst["embedding"], float(np.abs(text - row["text_embedding"]).max()))
    compared += 1
assert compared > 250 and worst["states"] < 1e-4 and worst["embedding"] < 1e-5, (compared, worst)
print(compared, worst)
