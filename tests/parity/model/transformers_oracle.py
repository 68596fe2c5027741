"""Opens the folders written by transformers_parity_test in transformers and stores what it computes.

Usage: transformers_oracle.py ROOT. Each sub-folder of ROOT holds a model folder, the same model rounded to bf16 in
bf16/, and inputs.safetensors. This writes into both: oracle.safetensors (computed in fp64 from the weights as stored)
and a model folder saved again by transformers (resaved/); beside the first oracle.json, and into bf16/ also
computed.safetensors, what transformers computes in bf16.
"""

import json
import pathlib
import sys

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlavaForConditionalGeneration

torch.set_num_threads(1)
NEW_TOKENS = 6


def disk_name(name, llava):
    """The key on disk of a parameter of the live model."""
    if not llava:
        return name
    for live, disk in (
        ("model.language_model.", "language_model.model."),
        ("model.vision_tower.", "vision_tower."),
        ("model.multi_modal_projector.", "multi_modal_projector."),
        ("lm_head.", "language_model.lm_head."),
    ):
        if name.startswith(live):
            return disk + name[len(live) :]
    raise ValueError(name)


def pad(inputs):
    """Documents as rows of a right-padded batch: ids, mask, and the flat index of every real token."""
    starts = inputs["starts"].tolist()
    documents = list(zip(starts[:-1], starts[1:]))
    longest = max(end - begin for begin, end in documents)
    ids = torch.zeros(len(documents), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    flat = []
    for row, (begin, end) in enumerate(documents):
        ids[row, : end - begin] = inputs["ids"][begin:end]
        mask[row, : end - begin] = 1
        flat += [row * longest + i for i in range(end - begin)]
    return ids, mask, torch.tensor(flat), documents


def forward_backward(model, inputs, config):
    """Hidden states, logits, loss and gradients in the model's type; the loss itself in fp32, or fp64 where that is."""
    llava = config["model_type"] == "llava"
    ids, mask, flat, _ = pad(inputs)
    result, extra = {}, {}
    labels = ids.clone()
    labels[mask == 0] = -100
    if llava:
        labels[ids == config["image_token_index"]] = -100
    if "pixels" in inputs:
        extra["pixel_values"] = inputs["pixels"].to(model.dtype)
        tower = model.model.vision_tower(extra["pixel_values"], output_hidden_states=True)
        for i, hidden in enumerate(tower.hidden_states):
            result[f"vision.hidden.{i}"] = hidden.flatten(0, 1)
    out = model(input_ids=ids, attention_mask=mask, labels=labels, output_hidden_states=True, **extra)
    if "pixels" in inputs:
        result["image_features"] = out.image_hidden_states.flatten(0, -2)
    for i, hidden in enumerate(out.hidden_states[:-1]):  # the last one is after the final norm
        result[f"llm.hidden.{i}"] = hidden.flatten(0, 1)[flat]
    logits = out.logits.flatten(0, 1)[flat]
    result["logits"] = logits
    result["mean_loss"] = out.loss.double().reshape(1)

    wide = torch.promote_types(logits.dtype, torch.float32)
    chosen = logits[inputs["target_index"]].to(wide)
    lse = chosen.logsumexp(-1)
    logp = chosen.gather(1, inputs["target_id"].unsqueeze(1)).squeeze(1) - lse
    smoothing = float(inputs["smoothing"][0])
    loss = (inputs["target_weight"].to(wide) * ((1 - smoothing) * -logp + smoothing * (lse - chosen.mean(-1)))).sum()
    result["loss"] = loss.reshape(1)
    loss.backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            result["grad." + disk_name(name, llava)] = parameter.grad
    return result


def store(tensors, path):
    save_file({name: tensor.detach().double().contiguous().clone() for name, tensor in tensors.items()}, path)


def run_bf16(folder, kind, inputs, config):
    model = kind.from_pretrained(folder, dtype=torch.bfloat16)
    model.eval()
    model.save_pretrained(folder / "resaved")
    store(forward_backward(model, inputs, config), folder / "computed.safetensors")
    model.zero_grad()
    store(forward_backward(model.double(), inputs, config), folder / "oracle.safetensors")


def run(folder):
    config = json.loads((folder / "config.json").read_text())
    llava = config["model_type"] == "llava"
    kind = LlavaForConditionalGeneration if llava else AutoModelForCausalLM
    model, info = kind.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    model.eval()
    inputs = load_file(folder / "inputs.safetensors")
    documents = pad(inputs)[3]
    has_pictures = "pixels" in inputs
    generated = []
    for begin, end in documents:
        prompt = inputs["ids"][begin:end].unsqueeze(0)
        pictures = {}
        if has_pictures:
            count = int((prompt == config["image_token_index"]).sum()) // config["image_seq_length"]
            first = int((inputs["ids"][:begin] == config["image_token_index"]).sum()) // config["image_seq_length"]
            if count:
                pictures["pixel_values"] = inputs["pixels"][first : first + count]
        out = model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=False,
            max_new_tokens=NEW_TOKENS,
            min_new_tokens=NEW_TOKENS,
            pad_token_id=0,
            **pictures,
        )
        generated.append(out[0, end - begin :].tolist())

    store(forward_backward(model.double(), inputs, config), folder / "oracle.safetensors")

    model.float().save_pretrained(folder / "resaved")
    saved = load_file(folder / "resaved" / "model.safetensors")
    summary = {
        "missing": sorted(info["missing_keys"]),
        "unexpected": sorted(info["unexpected_keys"]),
        "mismatched": sorted(str(k) for k in info["mismatched_keys"]),
        "saved": {name: list(tensor.shape) for name, tensor in saved.items()},
        "generated": generated,
    }
    (folder / "oracle.json").write_text(json.dumps(summary))
    run_bf16(folder / "bf16", kind, inputs, config)


for case in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    run(case)
