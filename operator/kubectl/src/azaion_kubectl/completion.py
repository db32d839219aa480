"""What may follow on the command line: for kubectl itself, and for bash, zsh and fish."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from azaion_api.names import Kind
from azaion_api.resources import ModelLine
from azaion_kubectl.access import Kubectl
from azaion_kubectl.errors import CommandError

#: What a positional argument is, by its name in the parser.
_KINDS = {"run": Kind.TRAINING_RUN, "line": Kind.MODEL_LINE}
#: kubectl reads cobra's directives: offer these, and no file names.
_NO_FILES = ":4"
_FILES = ":0"

SCRIPTS = {
    "bash": """\
# kubectl azaion: put this into ~/.bashrc
#   source <(kubectl azaion completion bash)
# kubectl itself completes `kubectl azaion` where kubectl_complete-azaion is on the PATH.
_kubectl_azaion() {
    local IFS=$'\\n'
    COMPREPLY=($(kubectl-azaion __complete -- "${COMP_WORDS[@]:1:$COMP_CWORD}" 2>/dev/null | grep -v '^:'))
}
complete -F _kubectl_azaion kubectl-azaion
""",
    "zsh": """\
# kubectl azaion: put this into ~/.zshrc, after compinit
#   source <(kubectl azaion completion zsh)
# kubectl itself completes `kubectl azaion` where kubectl_complete-azaion is on the PATH.
_kubectl_azaion() {
    local -a found
    found=(${(f)"$(kubectl-azaion __complete -- "${(@)words[2,$CURRENT]}" 2>/dev/null | grep -v '^:')"})
    (( ${#found} )) && compadd -a found || _files
}
compdef _kubectl_azaion kubectl-azaion
""",
    "fish": """\
# kubectl azaion: put this into ~/.config/fish/completions/kubectl-azaion.fish
function __kubectl_azaion
    set -l words (commandline -opc) (commandline -ct)
    kubectl-azaion __complete -- $words[2..-1] 2>/dev/null | string match -v -r '^:'
end
complete -c kubectl-azaion -f -a '(__kubectl_azaion)'
""",
}


def candidates(parser: argparse.ArgumentParser, words: Sequence[str], kubectl: Kubectl) -> list[str]:
    """What may stand where the last of the words is; the words before are complete."""
    given, last = list(words[:-1]), words[-1] if words else ""
    commands = _commands(parser)
    command, positionals, waiting = None, 0, None
    for word in given:
        if waiting is not None:
            waiting = None
            continue
        current = commands[command] if command else parser
        if word.startswith("-"):
            option = current._option_string_actions.get(word.partition("=")[0])
            takes_value = option is not None and option.nargs is None and not isinstance(option.const, bool)
            waiting = option if takes_value and "=" not in word else None
        elif command is None and word in commands:
            command = word
        elif command is not None:
            positionals += 1
    if waiting is not None:
        return _matching(map(str, waiting.choices or ()), last)
    current = commands[command] if command else parser
    if last.startswith("-"):
        return _matching(current._option_string_actions, last)
    if command is None:
        return _matching((name for name in commands if not name.startswith("_")), last)
    return _matching(_values(current, positionals, given, kubectl), last)


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def _values(parser: argparse.ArgumentParser, number: int, given: Sequence[str], kubectl: Kubectl) -> list[str]:
    positionals = [action for action in parser._actions if not action.option_strings]
    if number >= len(positionals):
        return []
    action = positionals[number]
    if action.choices is not None:
        return [str(choice) for choice in action.choices]
    try:
        if action.dest in _KINDS:
            return list(kubectl.names(_KINDS[action.dest]))
        if action.dest == "source":
            runs = [f"run/{name}" for name in kubectl.names(Kind.TRAINING_RUN)]
            return [*kubectl.names(Kind.MODEL_LINE), *runs]
        if action.dest == "model":
            line = kubectl.get(Kind.MODEL_LINE, given[-1], ModelLine)
            return [record.name for record in line.status.history]
    except CommandError:
        # Completion never complains.
        return []
    return []


def _matching(values: object, start: str) -> list[str]:
    return sorted(value for value in values if value.startswith(start))  # type: ignore[attr-defined]


def complete(words: Sequence[str]) -> int:
    """Print the candidates the way kubectl wants them of its plugins."""
    from azaion_kubectl.cli import build_parser, kubectl_of

    # Where to look is said anywhere before the last word, and the rest need not be a whole command yet.
    where = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    where.add_argument("-n", "--namespace")
    where.add_argument("--context")
    where.add_argument("--kubeconfig")
    try:
        known, _ = where.parse_known_args(list(words[:-1]))
    except argparse.ArgumentError:
        known = argparse.Namespace()
    found = candidates(build_parser(), words, kubectl_of(known))
    for line in found:
        print(line)
    print(_NO_FILES if found or not words else _FILES)
    return 0


def main() -> int:
    """kubectl_complete-azaion: kubectl calls it with the words after `kubectl azaion`."""
    return complete(sys.argv[1:])
