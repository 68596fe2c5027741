"""The check of arrows finds a wrong #include, a wrong link and a missing target, and nothing in what is right."""
import arrows


def finds(problems, *parts):
    assert len(problems) == 1 and all(part in problems[0] for part in parts), problems


GOOD = {"vlm_data": {"sources": ["data/order.cc"], "links": ["vlm::base", "vlm_warnings"]},
        "vlm_base": {"sources": ["base/clock.cc"], "links": ["absl::time"]},
        "vlm_train": {"sources": ["train/run.cc"], "links": ["vlm::base", "vlm::data", "vlm::torch"]}}


def with_links(name, *links):
    return {**GOOD, name: {**GOOD[name], "links": list(links)}}


assert not arrows.include_problems("train/run.cc", '#include "data/order.h"\n#include <ATen/ATen.h>\n')
finds(arrows.include_problems("data/order.cc", '#include "train/run.h"\n'), "data may not use train")
finds(arrows.include_problems("data/order.cc", "  # include <ATen/ATen.h>\n"), "data may not include torch")
finds(arrows.include_problems("trainer/pool.cc", '#include <torch/torch.h>\n#include "vlm/v1/jobs.pb.h"\n'), "beside")
finds(arrows.include_problems("nowhere/x.cc", ""), "no target")

assert not arrows.link_problems(GOOD)
finds(arrows.link_problems(with_links("vlm_data", "vlm::train")), "vlm_data", "data may not link train")
finds(arrows.link_problems(with_links("vlm_data", "vlm_train")), "data may not link train")
finds(arrows.link_problems(with_links("vlm_base", "vlm::torch")), "base may not link torch")
finds(arrows.link_problems(with_links("vlm_train", "RocksDB::rocksdb-shared")), "train may not link rocksdb")
finds(arrows.link_problems({"vlm_both": {"sources": ["base/clock.cc", "data/order.cc"], "links": []}}), "one target")
assert "vlm_data" not in str(arrows.unbuilt_problems(GOOD))
assert "store: no CMake target builds its sources" in arrows.unbuilt_problems(GOOD)
assert "data: no CMake target builds its sources" not in arrows.unbuilt_problems(GOOD)
