"""Pickles as data: an interpreter of the opcodes that weights files need, which cannot run anything.

Python's own Unpickler calls whatever a file names; restricting it leaves holes (attributes set by BUILD, memory taken
by a memo index). Here a file may build numbers, strings, tuples, lists and dictionaries, and may call the functions of
a table that the caller gives. Any other opcode and any other global ends with a ValueError that names it. Time and
memory are linear in the size of the file: what it says once cannot be made large by saying it again.
"""

import pickletools
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, NamedTuple

CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
LITERALS = {
    *("INT", "LONG", "LONG1", "LONG4", "BININT", "BININT1", "BININT2", "FLOAT", "BINFLOAT"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "STRING", "BINSTRING", "SHORT_BINSTRING"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
EMPTY = {"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": lambda: Entries()}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
# Keys of dictionaries. Python hashes whole numbers by themselves up to here; larger ones can be made to collide, and
# equal texts are compared letter by letter whenever one is looked up.
LARGEST_KEY = 2**48
LONGEST_KEY = 4096


class Global(NamedTuple):
    """What a name in the file stands for. No opcode makes one but the lookup in the caller's table."""

    name: str
    value: Any


def load(stream: BinaryIO, *, table: Mapping[str, Any], persistent_load: Callable[[Any], Any]) -> Any:
    """The object pickled in `stream`, read up to its end mark.

    table: {"module.name": function or value}, all that the file may refer to. persistent_load: called with each
    persistent id. Attributes that the file wants to set on an object are dropped. Raises ValueError for everything
    that is not allowed, and for a pickle that is cut off or makes no sense.
    """
    try:
        return _Machine(table, persistent_load).run(stream)
    except (IndexError, KeyError, TypeError, AttributeError, EOFError, OverflowError, RecursionError) as error:
        raise ValueError(f"the pickle in it is damaged ({type(error).__name__}: {error})") from None


class Entries(dict):
    """A dictionary of the file; `repeated`: keys that the file sets more than once, of which the last value stays."""

    def __init__(self, pairs=()):
        super().__init__()
        self.repeated = []
        self.add(pairs)

    def add(self, pairs):
        for key, value in pairs:
            if key in self:
                self.repeated.append(key)
            self[key] = value


class _Machine:
    """The pickle machine: a stack, the stacks below the marks, and a memo."""

    def __init__(self, table, persistent_load):
        self.table, self.persistent_load = table, persistent_load
        self.stack, self.marks, self.memo = [], [], {}
        self.steps = self.given = 0  # opcodes so far; elements of what was given to functions

    def run(self, stream):
        for opcode, arg, _ in pickletools.genops(stream):
            self.steps += 1
            if opcode.name == "STOP":
                return self.stack.pop()
            self.step(opcode.name, arg)
        raise ValueError("the pickle in it has no end")

    def step(self, name, arg):
        """Execute one opcode. `arg` has been decoded and bounded by what the file really holds."""
        stack = self.stack
        if name in LITERALS:
            stack.append(arg)
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name in EMPTY:
            stack.append(EMPTY[name]())
        elif name in TUPLES:
            items = [stack.pop() for _ in range(TUPLES[name])]
            stack.append(tuple(reversed(items)))
        elif name in ("PROTO", "FRAME"):
            pass
        elif name == "MARK":
            self.marks.append(stack)
            self.stack = []
        elif name in ("TUPLE", "LIST", "DICT"):
            items = self.pop_mark()
            self.stack.append({"TUPLE": tuple, "LIST": list, "DICT": entries}[name](items))
        elif name == "APPEND":
            item = stack.pop()
            _extend(stack[-1], [item])
        elif name == "APPENDS":
            items = self.pop_mark()
            _extend(self.stack[-1], items)
        elif name == "SETITEM":
            value, key = stack.pop(), stack.pop()
            _update(stack[-1], [key, value])
        elif name == "SETITEMS":
            items = self.pop_mark()
            _update(self.stack[-1], items)
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            self.memo[arg] = stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(self.memo[arg])
        elif name == "GLOBAL":
            stack.append(self.find(arg.replace(" ", ".")))
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            if type(module) is not str or type(attribute) is not str:  # a nested list can take for ever to print
                raise ValueError("its pickle refers to a Python object by something that is no name")
            stack.append(self.find(f"{module}.{attribute}"))
        elif name == "BINPERSID":
            stack.append(self.persistent_load(stack.pop()))
        elif name == "REDUCE":
            arguments, function = stack.pop(), stack.pop()
            stack.append(self.call(function, arguments))
        elif name == "BUILD":
            stack.pop()  # attributes such as a state dict's _metadata; the object stays as it is
        else:
            raise ValueError(f"its pickle uses the operation {name}, which no file of plain weights needs")

    def pop_mark(self):
        items, self.stack = self.stack, self.marks.pop()
        return items

    def find(self, name):
        if name not in self.table:
            raise ValueError(f"it refers to the Python object {name[:200]!r}, which is not part of plain weights")
        return Global(name, self.table[name])

    def call(self, function, arguments):
        if not isinstance(function, Global) or not callable(function.value) or not isinstance(arguments, tuple):
            raise ValueError("its pickle calls something that is no function")
        # Each element took an opcode to make. Where there are more, the file gives one list again and again.
        self.given += len(arguments) + sum(len(given) for given in arguments if type(given) in (list, tuple))
        if self.given > self.steps:
            raise ValueError("its pickle calls functions with more than it holds")
        return function.value(*arguments)


def _extend(target, items):
    if type(target) is not list:
        raise ValueError("its pickle appends to something that is no list")
    target.extend(items)


def _update(target, items):
    if type(target) is not Entries:
        raise ValueError("its pickle sets items of something that is no dictionary")
    target.add(_pairs(items))


def entries(items) -> Entries:
    """[key, value, key, value, ...] -> dictionary."""
    return Entries(_pairs(items))


def _pairs(items):
    """[key, value, key, value, ...] in pairs. Only plain keys: to hash a nested tuple can take for ever."""
    keys = items[::2]
    if len(items) % 2 or not all(map(_is_key, keys)):
        raise ValueError("a dictionary in its pickle has a key that is neither short text nor a moderate whole number")
    return zip(keys, items[1::2], strict=True)


def _is_key(key):
    return len(key) <= LONGEST_KEY if type(key) is str else type(key) is int and abs(key) < LARGEST_KEY
