"""Budgets of the house: lines of headers, sources and functions, parameters, columns, also of documents, and names that
say nothing."""
import re

from functions import functions
from source_tree import MODULES, ROOT, report, sources, tracked

HEADER_LINES_MAX = 200
SOURCE_LINES_MAX = 600
FUNCTION_LINES_MAX = 70
PARAMETERS_MAX = 5
COLUMNS_MAX = 120
BANNED_NAMES = re.compile(r"(^|[_/])(utils?|helpers?|common|misc)([_./]|$)")

A_TABLE = "a table, one row after another"
A_STORY = "one test that follows one run from its start to its end"
RECORDS = "what a unit is given to record; each of them is of another type"
ONE_CALL = "one call: whom, what and how; each of them is of another type"
DEPENDENCIES = "a constructor takes what is injected, each of another type"
AS_REGISTERED = "the signature that the dispatcher registers it with"
# Larger than the budget with a reason; an entry that is no longer needed is a problem too.
EXCEPTIONS = {
    ("telemetry/metric_table.cc", "MakeTable"): A_TABLE,
    ("tests/unit/spec/parse_test.cc", "BadCases"): A_TABLE,
    ("tests/integration/coordinator/stage_test.cc", "CoordinatorStageTest, APoolRunsToItsArtifactAndIsSeenToDoSo"):
        A_STORY,
    ("tests/unit/model/graph_runner.cc", "RunPass"): "the plain definition of a pass, read from top to bottom",
    ("tests/integration/stages/local_job.cc", "LocalJob::RunStage"): "the fields of an assignment, one after another",
    ("tests/unit/checkpoint/catalog_machine.h", ""): "one request of the service after another",
    ("train/collectives/peer_mesh.cc", "ConnectMesh"): ONE_CALL,
    ("model/record.cc", "Unit::Record"): RECORDS,
    ("model/record.cc", "RecomputeTape"): RECORDS,
    ("model/generate.cc", "ForwardGraph"): RECORDS,
    ("tests/unit/model/units_test.cc", "Play"): RECORDS,
    ("coordinator/telemetry_store.cc", "TelemetryStore::TelemetryStore"): DEPENDENCIES,
    ("cli/service.cc", "Service::Service"): DEPENDENCIES,
    ("tests/sim/fake_trainer.cc", "FakeTrainer::FakeTrainer"): DEPENDENCIES,
    ("tests/sim/fake_trainer.cc", "GangTable::Arrive"): "the fields of a rendezvous, as the message has them",
    ("tests/unit/coordinator/service_harness.cc", "ServiceHarness::Exit"): "the fields of a report, most left out",
    ("tests/unit/train/foreign_device.cc", "Empty"): AS_REGISTERED,
    ("tests/unit/train/foreign_device.cc", "EmptyStrided"): AS_REGISTERED,
}


def excesses(path, text):
    """(function or "", what is too large) of one file."""
    lines = text.splitlines()
    limit = HEADER_LINES_MAX if path.suffix == ".h" else SOURCE_LINES_MAX
    if len(lines) > limit:
        yield "", f"{path}: {len(lines)} lines, the limit is {limit}"
    for function in functions(text):
        place = f"{path}:{function.line}: {function.name}"
        if function.lines > FUNCTION_LINES_MAX:
            yield function.name, f"{place} has {function.lines} lines, the limit is {FUNCTION_LINES_MAX}"
        if function.parameters > PARAMETERS_MAX:
            yield function.name, f"{place} has {function.parameters} parameters, the limit is {PARAMETERS_MAX}"
    for number, line in enumerate(lines, 1):
        if len(line) > COLUMNS_MAX:
            yield None, f"{path}:{number}: {len(line)} columns, the limit is {COLUMNS_MAX}"


def long_prose(path, text):
    """Lines of a document that are neither a table's row nor within a fence."""
    fenced = False
    for number, line in enumerate(text.splitlines(), 1):
        fenced ^= line.lstrip().startswith("```")
        if len(line) > COLUMNS_MAX and not fenced and not line.lstrip().startswith("|"):
            yield f"{path}:{number}: {len(line)} columns, the limit is {COLUMNS_MAX}"


def main():
    problems, used = [], set()
    for path in [path for path in tracked() if path.endswith(".md")]:
        problems += long_prose(path, (ROOT / path).read_text())
    for path in sources(".h", ".cc", ".cu", folders=MODULES + ["tests"]):
        for name, problem in excesses(path, (ROOT / path).read_text()):
            if (str(path), name) in EXCEPTIONS:
                used.add((str(path), name))
            else:
                problems.append(problem)
        if BANNED_NAMES.search(str(path)):
            problems.append(f"{path}: name the concept")
    problems += [f"tests/tidy/budgets.py: no exception is needed any more: {path} {name}"
                 for path, name in EXCEPTIONS if (path, name) not in used]
    report(problems)


if __name__ == "__main__":
    main()
