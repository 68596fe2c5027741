"""The reference side of tokenizer_oracle_test.cc: reads FOLDER/request.json, writes FOLDER/answer.json.

request: {"trainings": [{"name", "regex", "vocab_size", "min_frequency", "special", "documents"}],
          "texts": [...], "folder": our tokenizer's folder, "tokenizers": [names of our tokenizer.json files],
          "messages": [...]}
"""
import json
import os
import sys

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer


def splitter(regex):
    if regex is None:
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    return pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(regex), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])


def train(request):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = splitter(request["regex"])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=request["vocab_size"],
        min_frequency=request["min_frequency"],
        special_tokens=[AddedToken(t, special=True, normalized=False) for t in request["special"]],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(request["documents"], trainer)
    return {"name": request["name"], "json": tokenizer.to_str()}


def encodings(tokenizer, texts):
    answer = {"special": [], "ordinary": [], "lengths": [], "decoded": []}
    tokenizer.encode_special_tokens = False
    for text in texts:
        ids = tokenizer.encode(text).ids
        answer["special"].append(ids)
        answer["decoded"].append(tokenizer.decode(ids, skip_special_tokens=False))
    tokenizer.encode_special_tokens = True
    for text in texts:
        answer["ordinary"].append(tokenizer.encode(text).ids)
    for text in texts:
        words = tokenizer.pre_tokenizer.pre_tokenize_str(text)
        answer["lengths"].append([end - begin for _, (begin, end) in words])
    return answer


def main():
    folder = sys.argv[1]
    with open(os.path.join(folder, "request.json"), encoding="utf-8") as file:
        request = json.load(file)
    answer = {"trainings": [train(training) for training in request["trainings"]], "encodings": {}}
    for name in request["tokenizers"]:
        tokenizer = Tokenizer.from_file(os.path.join(folder, name))
        answer["encodings"][name] = encodings(tokenizer, request["texts"])
    auto = AutoTokenizer.from_pretrained(request["folder"])
    rendered = auto.apply_chat_template(request["messages"], tokenize=True, add_generation_prompt=True,
                                        return_dict=True)
    masked = auto.apply_chat_template(request["messages"], tokenize=True, return_dict=True,
                                      return_assistant_tokens_mask=True)
    answer["auto"] = {
        "class": type(auto).__name__,
        "ids": [auto.encode(text) for text in request["texts"]],
        "decoded": [auto.decode(auto.encode(text)) for text in request["texts"]],
        "size": len(auto),
        "eos": auto.eos_token, "pad": auto.pad_token, "image": auto.image_token,
        "max_length": auto.model_max_length,
        "chat": rendered["input_ids"],
        "mask": masked["assistant_masks"],
    }
    with open(os.path.join(folder, "answer.json"), "w", encoding="utf-8") as file:
        json.dump(answer, file)


main()
