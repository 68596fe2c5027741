"""Finds the functions that C++ sources define, by their braces: name, place, length and number of parameters. It knows
no grammar; clang-formatted code without macros that hide braces is enough for it."""
import re
from dataclasses import dataclass

BLANKED = re.compile(r'//[^\n]*|/\*.*?\*/|R"(?P<mark>[^(\n]*)\(.*?\)(?P=mark)"|"(?:\\.|[^"\\\n])*"'
                     r"|(?<![0-9a-fA-F])'(?:\\.|[^'\\\n])+'|^[ \t]*#(?:[^\n\\]|\\.|\\\n)*", re.S | re.M)
SCOPE = re.compile(r"(^|\s)(namespace|class|struct|union|extern)\b(?!.*\)\s*$)", re.S)
TEST = re.compile(r"^\s*(TEST|TYPED_TEST|INSTANTIATE|RC_GTEST|BENCHMARK)\w*\s*\(")


@dataclass
class Function:
    name: str
    line: int
    lines: int
    parameters: int  # 0 of what has no choice: a test, an override


def blanked(text):
    """The text with comments, literals and directives as blanks, so that each place stays where it is."""
    return BLANKED.sub(lambda found: re.sub(r"[^\n]", " ", found.group()), text)


def depth_zero(head):
    """The head without what stands in parentheses or angles, and the first parentheses outside of angles, or None."""
    outside, depth, angles, first, start = "", 0, 0, None, 0
    for place, sign in enumerate(head):
        if sign == "(":
            if depth == 0 and angles == 0 and first is None:
                start = place + 1
            depth += 1
        elif sign == ")":
            depth -= 1
            if depth == 0 and angles == 0 and first is None:
                first = head[start:place]
        elif depth == 0:
            angles += (sign == "<") - (sign == ">" and head[place - 1] != "-")
            outside += sign if angles == 0 else ""
    return outside, first


def count_parameters(text):
    """Commas outside of any brackets, and one."""
    if text.strip() in ("", "void"):
        return 0
    depth, commas = 0, 0
    for place, sign in enumerate(text):
        depth += (sign in "([{<") - (sign in ")]}" or sign == ">" and text[place - 1] != "-")
        commas += sign == "," and depth == 0
    return commas + 1


def function_of(head, line):
    """The function that this head of a block opens, or None: a scope, a table, a list."""
    head = re.sub(r"\boperator\s*(\(\)|[^\w\s(]+)", "operator_", head)
    outside, parameters = depth_zero(head)
    if parameters is None or re.search(r"(?<![=!<>])=(?!=)", outside) or SCOPE.search(outside):
        return None
    test = TEST.match(head)
    name = re.sub(r"\s+", " ", parameters.strip()) if test else re.search(r"([\w:~]+)\s*\(", head).group(1)
    given = test or re.search(r"\boverride\b", outside)  # by the test framework, by the interface
    return Function(name, line, 0, 0 if given else count_parameters(parameters))


def functions(text):
    """All functions that a source defines, in order; what lies within a function is part of it."""
    text = blanked(text)
    found, inside, head, line, current, round_open = [], 0, 0, 1, None, 0
    for place, sign in enumerate(text):
        line += sign == "\n"
        if inside:
            inside += (sign == "{") - (sign == "}")
            if inside == 0:
                following = text[place + 1:place + 3].lstrip()
                if current and not following.startswith((",", "{")):  # else: only an initialiser of a member
                    current.lines = line - current.line + 1
                    found.append(current)
                    current = None
                if not current:
                    head = place + 1
        elif sign in "()":
            round_open += 1 if sign == "(" else -1
        elif round_open:
            continue  # braces of a default argument
        elif sign == "{":
            opening = text[head:place]
            begin = line - opening.lstrip().count("\n")
            current = current or function_of(opening, begin)
            if current or not SCOPE.search(depth_zero(opening)[0]):
                inside = 1
            else:
                head = place + 1
        elif sign in "};" or sign == ":" and re.search(r"\b(public|private|protected)\s*$", text[head:place]):
            head = place + 1
    return found
