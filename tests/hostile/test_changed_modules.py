"""A network that was explained is changed, and explained again: the answer is that of an equal network that was never explained before.

Every change is made to two equal networks, of which one was explained by every method before.
"""

import copy
import gc
import random
import sys
import types
import warnings
import weakref
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import lucidcam
from lucidcam.errors import LucidcamError

THIS = sys.modules[__name__]
METHODS = [name for name in sorted(lucidcam.methods()) if name not in ("attention_relevance", "legrad", "mcam", "rollout")]
FEW = {
    "rise": {"masks": 8},
    "occlusion": {"window": 6, "stride": 3},
    "sscam": {"samples": 2},
    "iscam": {"samples": 2},
    "smoothgradcam++": {"samples": 2},
}
DEEP = False  # a global that the forward reads
LIMITS = {"deep": False}


def is_deep(net):
    return False


def squash(x):
    return x


class Settings:
    deep = False

    def __init__(self):
        self.levels = []
        self.deep = False


class Net(nn.Module):
    """Goes one of two ways, by any of many settings: with or without the layer `extra`."""

    deep_class = False

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.block = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.tail = None
        self.parts = nn.ModuleList()
        self.named = nn.ModuleDict()
        self.extra = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.Tanh())
        self.fc = nn.Linear(6, 4)
        self.flag, self.count, self.mode, self.depth = False, 0, "shallow", None
        self.steps, self.options, self.marks = [], {"deep": False}, set()
        self.settings = Settings()
        self.hidden = [nn.Identity()]
        self.gate = torch.zeros(1)
        self.final = None
        self.register_buffer("switch", torch.zeros(2))

    def goes_deep(self):
        return bool(
            self.flag
            or self.deep_class
            or self.count > 2
            or self.mode == "deep"
            or self.depth is not None
            or "extra" in self.steps
            or self.options["deep"]
            or "extra" in self.marks
            or self.settings.deep
            or self.settings.levels
            or self.gate[0] > 0
            or self.switch[1] > 0
            or DEEP
            or LIMITS["deep"]
            or is_deep(self)
        )

    def forward(self, x, mode="shallow", tokens=None, deep=False, early=False):
        x = F.relu(self.stem(x))
        x = self.block(x)
        if self.tail is not None:
            x = self.tail(x)
        for part in (*self.parts, *self.named.values(), *self.hidden):
            x = part(x)
        tokens_deep = tokens is not None and bool((tokens[:, 0] == 7).any() or (tokens.dtype == torch.bool and tokens.all()))
        if self.goes_deep() or mode == "deep" or deep or tokens_deep:
            x = self.extra(x)
        if early:
            return self.fc(x.mean((2, 3)) * 0.5)
        x = self.fc(squash(x).mean((2, 3)))
        return x if self.final is None else self.final(x)


def built(change=None):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Net().eval()
        for norm in (m for m in net.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
    return net


def conv(seed=5, channels=6, **options):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Conv2d(channels, 6, 3, padding=1, **options).eval()


def deep_forward(self, x):
    return self.fc(self.extra(self.block(F.relu(self.stem(x)))).mean((2, 3)))


def replaced_at_the_same_address(net):
    """As users do who try other layers: the new one takes the address of the old one."""
    net.tail = None
    net.tail = conv()


def patched(where, name, value):
    """A change of something that all networks share; it is taken back afterwards."""

    def change(net):
        UNDO.append((where, name, getattr(where, name)))
        setattr(where, name, value)

    return change


UNDO = []


def set_item(net, where, key, value):
    where[key] = value


def in_dict(net):
    UNDO.append((LIMITS, "deep", False))
    LIMITS["deep"] = True


def with_closure(net):
    deep = [False]

    def forward(x):
        x = net.block(F.relu(net.stem(x)))
        return net.fc((net.extra(x) if deep[0] else x).mean((2, 3)))

    net.forward = forward
    return deep


def swapped(net):
    net.block[0], net.block[2] = net.block[2], net.block[0]


def inserted(net):
    net.block.insert(1, conv(7))


def quantised(net):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.ao.quantization.quantize_dynamic(net, {nn.Linear}, dtype=torch.qint8, inplace=True)


def old_weight_norm(net):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.nn.utils.weight_norm(net.block[0])


def old_spectral_norm(net):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.nn.utils.spectral_norm(net.block[0])


def state(net, change=lambda t: t * 0.5 + 0.01):
    with torch.no_grad():
        return {name: change(value) if value.is_floating_point() else value for name, value in net.state_dict().items()}


def fused(net):
    net.block[0] = nn.utils.fusion.fuse_conv_bn_eval(net.block[0], net.block[1])
    net.block[1] = nn.Identity()


def no_grad(change):
    def wrapped(net):
        with torch.no_grad():
            change(net)

    return wrapped


class Deep(Net):
    def goes_deep(self):
        return True


CHANGES = {
    # submodules
    "replaced": lambda net: setattr(net, "tail", conv()),
    "replaced again": lambda net: (setattr(net, "tail", nn.Sequential(conv(), nn.MaxPool2d(2))), replaced_at_the_same_address(net)),
    "same address": replaced_at_the_same_address,
    "same address, another kind": lambda net: (setattr(net, "extra", None), setattr(net, "extra", nn.Sequential(nn.Tanh(), conv())),
        setattr(net, "flag", True)),
    "deleted and made": lambda net: (delattr(net, "tail"), setattr(net, "tail", conv())),
    "add_module": lambda net: (delattr(net, "tail"), net.add_module("tail", conv())),
    "removed": lambda net: setattr(net, "block", nn.Identity()),
    "swapped": swapped,
    "inserted": inserted,
    "appended": lambda net: net.block.append(conv(8)),
    "item deleted": lambda net: net.block.__delitem__(1),
    "list": lambda net: net.parts.append(conv(9)),
    "list turned": lambda net: (net.parts.extend([conv(9), nn.Sequential(conv(10), nn.ReLU())]),
        setattr(net, "parts", nn.ModuleList(list(net.parts)[::-1]))),
    "dict": lambda net: net.named.update({"a": conv(9), "b": nn.ReLU()}),
    "hidden in a list": lambda net: set_item(net, net.hidden, 0, conv(9)),
    "hidden, inside": lambda net: net.hidden[0].register_forward_hook(lambda m, i, o: o * 0.5),
    "class": lambda net: setattr(net, "__class__", Deep),
    "class of a part": lambda net: setattr(net.block[2], "__class__", nn.Hardtanh) or setattr(net.block[2], "min_val", -1.0)
        or setattr(net.block[2], "max_val", 1.0),
    "fused": fused,
    "quantised": quantised,
    # attributes
    "flag": lambda net: setattr(net, "flag", True),
    "number": lambda net: setattr(net, "count", 3),
    "text": lambda net: setattr(net, "mode", "deep"),
    "None": lambda net: setattr(net, "depth", 1),
    "list in place": lambda net: net.steps.append("extra"),
    "dict in place": lambda net: net.options.update(deep=True),
    "set in place": lambda net: net.marks.add("extra"),
    "settings": lambda net: setattr(net.settings, "deep", True),
    "settings, inside": lambda net: net.settings.levels.append(1),
    "tensor": lambda net: setattr(net, "gate", torch.ones(1)),
    "tensor in place": lambda net: net.gate.fill_(1),
    "tensor, .data": lambda net: net.gate.data.fill_(1),
    "tensor, numpy": lambda net: net.gate.numpy().fill(1),
    "buffer": lambda net: net.switch.fill_(1),
    "buffer replaced": lambda net: setattr(net, "switch", torch.ones(2)),
    "buffer, .data": lambda net: net.switch.data.fill_(1),
    "running statistics": lambda net: net.block[1].running_var.mul_(3),
    "statistics dropped": lambda net: (setattr(net.block[1], "running_mean", torch.zeros(6)),
        setattr(net.block[1], "running_var", torch.ones(6))),
    "stride": lambda net: setattr(net.block[0], "stride", (2, 2)),
    "dilation and padding": lambda net: (setattr(net.block[0], "dilation", (2, 2)), setattr(net.block[0], "padding", (2, 2))),
    "eps": lambda net: setattr(net.block[1], "eps", 1.0),
    "in place": lambda net: setattr(net.block[2], "inplace", True),
    # code
    "method": lambda net: setattr(net, "goes_deep", lambda: True),
    "forward": lambda net: setattr(net, "forward", types.MethodType(deep_forward, net)),
    "forward, partial": lambda net: setattr(net, "forward", partial(Net.forward, net, deep=True)),
    "forward of a part": lambda net: setattr(net.block[2], "forward", lambda x: F.max_pool2d(x, 2)),
    "class's forward": patched(Net, "forward", deep_forward),
    "class's method": patched(Net, "goes_deep", lambda self: True),
    "class's attribute": patched(Net, "deep_class", True),
    "layer's forward": patched(nn.ReLU, "forward", lambda self, x: F.max_pool2d(x, 2)),
    "global": patched(THIS, "DEEP", True),
    "global, inside": in_dict,
    "function": patched(THIS, "is_deep", lambda net: True),
    "function of torch": patched(F, "relu", lambda x, inplace=False: torch.tanh(x)),
    "closure": lambda net: set_item(net, net.cell, 0, True),
    "pooling function": patched(THIS, "squash", lambda x: F.max_pool2d(x, 2)),
    # hooks
    "hook": lambda net: net.block.register_forward_hook(lambda m, i, o: o * 0.5),
    "hook that pools": lambda net: net.block.register_forward_hook(lambda m, i, o: F.max_pool2d(o, 2)),
    "hook before": lambda net: net.fc.register_forward_pre_hook(lambda m, i: (i[0] * 3,)),
    "hook on the head": lambda net: net.fc.register_forward_hook(lambda m, i, o: o * 2),
    "hook on all": lambda net: net.register_forward_hook(lambda m, i, o: o.softmax(1)),
    "hook removed": lambda net: net.handle.remove(),
    "backward hook": lambda net: net.block.register_full_backward_hook(lambda m, i, o: (i[0] * 2,)),
    # the meaning of outputs
    "softmax": lambda net: setattr(net, "final", nn.Softmax(1)),
    "sigmoid": lambda net: setattr(net, "final", torch.sigmoid),
    "another head": lambda net: setattr(net, "fc", nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))),
    # weights
    "weight": lambda net: setattr(net.fc, "weight", nn.Parameter(torch.linspace(-1, 1, 24).reshape(4, 6))),
    "weight, same address": lambda net: (setattr(net.fc, "weight", None),
        setattr(net.fc, "weight", nn.Parameter(torch.linspace(-1, 1, 24).reshape(4, 6)))),
    "weight in place": no_grad(lambda net: net.fc.weight.mul_(-1)),
    "weight, .data": lambda net: setattr(net.fc.weight, "data", net.fc.weight.data * -1),
    "weight, .data in place": lambda net: net.fc.weight.data.mul_(-1),
    "weight, numpy": lambda net: net.fc.weight.detach().numpy().__imul__(-1),
    "zero weights": lambda net: [p.data.zero_() for p in net.parameters()],
    "load_state_dict": lambda net: net.load_state_dict(state(net)),
    "load_state_dict, assign": lambda net: net.load_state_dict(state(net), assign=True),
    "float64 and back": lambda net: net.double().float(),
    "requires_grad": lambda net: net.requires_grad_(False),
    "train": lambda net: net.train(),
    "tied": lambda net: setattr(net.extra[0], "weight", net.block[0].weight),
    "step": lambda net: (net(torch.ones(1, 3, 12, 12)).sum().backward(), torch.optim.SGD(net.parameters(), 0.5).step()),
    "weight norm": lambda net: parametrizations.weight_norm(net.block[0]),
    "old weight norm": old_weight_norm,
    "old spectral norm": old_spectral_norm,
    "orthogonal": lambda net: parametrizations.orthogonal(net.fc),
    "parametrised": lambda net: parametrize.register_parametrization(net.fc, "weight", nn.Tanh()),
    "pruned": lambda net: prune.l1_unstructured(net.fc, "weight", 0.5),
    "channels last": lambda net: net.to(memory_format=torch.channels_last),
    "moved": lambda net: net.apply(lambda m: None),
}  # fmt: skip
PREPARED = {"closure", "hook removed", "list turned"}
PATCHES = {
    *("class's forward", "class's method", "class's attribute", "layer's forward", "function of torch"),
    *("global", "global, inside", "function", "pooling function"),
}


def prepared(kind):
    net = built()
    if kind == "closure":
        net.__dict__["cell"] = with_closure(net)
    if kind == "hook removed":
        net.__dict__["handle"] = net.block.register_forward_hook(lambda m, i, o: F.max_pool2d(o, 2))
    if kind == "replaced again":
        net.tail = conv(4)
    if kind in ("same address", "deleted and made"):
        net.tail = nn.Sequential(conv(3), nn.MaxPool2d(2)) if kind == "same address" else conv(3)
    return net


@pytest.fixture(autouse=True)
def taken_back():
    yield
    while UNDO:
        where, name, value = UNDO.pop()
        if isinstance(where, dict):
            where[name] = value
        else:
            setattr(where, name, value)


def image(seed=3, batch=1, size=(12, 10)):
    return torch.rand(batch, 3, *size, generator=torch.Generator().manual_seed(seed))


def answers(net, inputs, methods):
    """The maps by each method, or why there is none; and that of a probability."""
    found = {}
    for method in methods:
        try:
            found[method] = lucidcam.attribute(net, inputs, method, target=1, **FEW.get(method, {}))
        except LucidcamError as error:
            found[method] = str(error)
    try:  # by what the outputs mean
        found["probability"] = lucidcam.attribute(net, inputs, "gradcam", target=lucidcam.Probability(1))
    except LucidcamError as error:
        found["probability"] = str(error)
    return found


def same(got, expected):
    assert got.keys() == expected.keys()
    for name, one in expected.items():
        if isinstance(one, str) or isinstance(got[name], str):
            assert got[name] == one, name
        else:
            assert torch.equal(got[name], one), name


def check(kind, methods, before):
    x = image()
    net, fresh = prepared(kind), prepared(kind)
    answers(net, x, before)
    for each in (net,) if kind in PATCHES else (net, fresh):
        with torch.random.fork_rng():
            torch.manual_seed(1)
            CHANGES[kind](each)
    same(answers(net, x, methods), answers(fresh, x, methods))


OFTEN = {  # the ways to change a network that are tried in every run of the tests, the others among the slow ones
    *("same address", "class", "flag", "number", "text", "None", "list in place", "dict in place", "set in place", "settings"),
    *("settings, inside", "tensor", "tensor, .data", "tensor, numpy", "buffer, .data", "method", "forward"),
    *("forward, partial", "class's forward", "class's method", "class's attribute", "global", "global, inside", "function", "closure"),
    *("load_state_dict", "hidden, inside", "hook on the head", "hook removed", "softmax", "sigmoid", "old weight norm", "weight, numpy"),
}


@pytest.mark.parametrize("kind", [kind if kind in OFTEN else pytest.param(kind, marks=pytest.mark.slow) for kind in CHANGES])
def test_a_changed_network_is_explained_as_a_fresh_one(kind):
    methods = ["cam", METHODS[list(CHANGES).index(kind) % len(METHODS)]]
    check(kind, methods[:1], methods[1:])


@pytest.mark.slow
@pytest.mark.parametrize("kind", CHANGES)
def test_a_changed_network_by_every_method(kind):
    check(kind, METHODS, METHODS)


TEXT = torch.tensor([[1, 2, 3]])
CALLS = {
    "mode": ({"x": None}, {"x": None, "mode": "deep"}),
    "mode by place": ((None, "shallow"), (None, "deep")),
    "place to name": ((None, "deep"), {"x": None, "mode": "shallow"}),
    "bool": ({"x": None, "deep": False}, {"x": None, "deep": True}),
    "number for bool": ({"x": None, "deep": 0}, {"x": None, "deep": 1}),
    "another name": ({"x": None, "early": True}, {"x": None, "deep": True}),
    "None": ({"x": None, "tokens": TEXT}, {"x": None, "tokens": None}),
    "tokens": ({"x": None, "tokens": TEXT[..., None]}, {"x": None, "tokens": TEXT[..., None] + 6}),
    "tokens moved": ({"x": None, "tokens": torch.tensor([[1, 7]])}, {"x": None, "tokens": torch.tensor([[7, 1]])}),
    "tokens in place": ({"x": None, "tokens": torch.tensor([[1, 7]])}, "turned"),
    "a few numbers": ({"x": None, "tokens": torch.tensor([[1.0, 7.0]])}, {"x": None, "tokens": torch.tensor([[7.0, 1.0]])}),
    "more tokens": ({"x": None, "tokens": torch.tensor([[1, 7]])}, {"x": None, "tokens": torch.tensor([[7, 7, 7]])}),
    "mask": ({"x": None, "tokens": torch.tensor([[False, True]])}, {"x": None, "tokens": torch.tensor([[True, True]])}),
}


def called(arguments, x):
    if isinstance(arguments, dict):
        return {name: x if name == "x" else value for name, value in arguments.items()}
    return tuple(x if value is None and i == 0 else value for i, value in enumerate(arguments))


@pytest.mark.parametrize("kind", CALLS)
def test_other_arguments_are_other_questions(kind):
    first, second = CALLS[kind]
    x, net = image(), built()
    methods = ["gradcam", METHODS[list(CALLS).index(kind) % len(METHODS)]]
    answers(net, called(first, x), ["gradcam"])
    if second == "turned":
        first["tokens"].copy_(first["tokens"].flip(1))
        second = first
    same(answers(net, called(second, x), methods), answers(built(), called(second, x), methods))


class ByImage(Net):
    """Bright images, all together, go through another layer; and what the first row of tokens says decides nothing."""

    def goes_deep(self):
        return self.bright

    def forward(self, x):
        self.bright = bool(x.mean() > 0.5)
        return super().forward(x)


SHIFTS = {
    "one": ([-0.3], [0.3]),
    "batch": ([-0.3, -0.2], [0.3, 0.2, 0.1]),
    "back": ([0.3], [-0.3]),
    "first alone": ([0.3], [0.3, -0.9, -0.9]),
}


@pytest.mark.parametrize("kind", SHIFTS)
def test_a_way_that_depends_on_the_images(kind):
    """One set of images goes one way, another one the other; of a batch, every image its own."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = ByImage().eval()
    fresh = copy.deepcopy(net)
    first, second = (image(batch=len(shift)) + torch.tensor(shift)[:, None, None, None] for shift in SHIFTS[kind])
    methods = ["gradcam", "eigencam", "gradient"]
    answers(net, first, methods)
    got = answers(net, second, methods)
    same(got, answers(fresh, second, methods))
    alone = [lucidcam.attribute(fresh, each[None], "gradcam", target=1) for each in second]
    torch.testing.assert_close(got["gradcam"], torch.cat(alone), rtol=1e-4, atol=1e-8)


class Attends(nn.Module):
    """A vision transformer in small, with or without a token in front of the patches."""

    def __init__(self):
        super().__init__()
        self.see = nn.Conv2d(3, 8, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.norm, self.qkv, self.last, self.head = nn.LayerNorm(8), nn.Linear(8, 24), nn.LayerNorm(8), nn.Linear(8, 3)
        self.front = True

    def forward(self, x, order=None):
        x = self.see(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) if self.front else x
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        x = self.last(x + F.scaled_dot_product_attention(q[:, None] * 3, k[:, None], v[:, None])[:, 0])
        return self.head(x[:, 0] if self.front else x.mean(1))


TOKENS = {
    "front": lambda net: setattr(net, "front", False),
    "size": None,
    "turned": None,
    "weights": lambda net: net.qkv.weight.data.mul_(2),
    "layer": lambda net: setattr(net, "last", nn.Identity()),
}


@pytest.mark.parametrize("kind", TOKENS)
def test_a_changed_transformer(kind):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Attends().eval()
    methods = ["gradcam", "rollout", "attention_relevance", "legrad"]
    answers(net, image(size=(16, 8)), methods)
    if TOKENS[kind] is not None:
        TOKENS[kind](net)
    x = image(size={"size": (16, 12), "turned": (8, 16)}.get(kind, (16, 8)))
    same(answers(net, x, methods), answers(copy.deepcopy(net), x, methods))


ONLOOKERS = {
    "after": lambda net, seen: net.block.register_forward_hook(lambda m, i, o: seen.append(1)),
    "before": lambda net, seen: net.register_forward_pre_hook(lambda m, i: seen.append(1)),
    "keywords": lambda net, seen: net.fc.register_forward_hook(lambda m, i, k, o: seen.append(1), with_kwargs=True),
}
HANDS = {
    "after": lambda net: net.fc.register_forward_hook(lambda m, i, o: o.softmax(1)),
    "in place": lambda net: net.fc.register_forward_hook(lambda m, i, o: o.mul_(2) is None or None),
    "before": lambda net: net.fc.register_forward_pre_hook(lambda m, i: (i[0].relu() - 1,)),
    "backward": lambda net: net.block.register_full_backward_hook(lambda m, i, o: (i[0] * 2,)),
}


@pytest.mark.parametrize("kind", ONLOOKERS)
def test_hooks_that_look_on_cost_no_pass(kind):
    net, x, seen = built(), image(), []
    expected = lucidcam.attribute(net, x, target=1)
    ONLOOKERS[kind](net, seen)
    assert torch.equal(lucidcam.attribute(net, x, target=1), expected)
    assert len(seen) == 1


@pytest.mark.parametrize("kind", HANDS)
def test_hooks_that_change_something_are_a_change(kind):
    net, fresh, x = built(), built(), image()
    answers(net, x, ["cam", "gradcam"])
    for each in (net, fresh):
        HANDS[kind](each)
    same(answers(net, x, ["cam", "gradcam"]), answers(fresh, x, ["cam", "gradcam"]))


def passes(net, work):
    """How often a network runs while something is done."""
    runs = []
    handle = nn.modules.module.register_module_forward_pre_hook(lambda part, _: runs.append(1) if part is net else None)
    try:
        work()
    finally:
        handle.remove()
    return len(runs)


class Counting(Net):
    """Sets and fills attributes in each pass, as networks do that keep their features."""

    def __init__(self):
        super().__init__()
        self.features, self.last = [], None
        self.register_buffer("mean", torch.zeros(6))

    def forward(self, x):
        self.last = self.block(F.relu(self.stem(x)))
        self.features.append(self.last.detach())
        self.mean = self.last.detach().mean((0, 2, 3))
        return self.fc(self.last.mean((2, 3)))


@pytest.mark.parametrize("between", ["nothing", "a pass", "cleared"])
def test_what_a_pass_itself_sets_is_no_change(between):
    net, x = Counting().eval(), image()
    lucidcam.attribute(net, x, target=1)
    for _ in range(2):
        if between != "nothing":
            net(x)
        if between == "cleared":
            net.features.clear()
        assert passes(net, lambda: lucidcam.attribute(net, x, target=1)) == 1


def self_referring():
    """A network that refers to itself in every way."""
    net = built()
    net.forward = types.MethodType(Net.forward, net)
    net.itself = [net, {"net": net}, partial(print, net), lambda: net]
    net.tail = conv()
    net.block.register_forward_hook(lambda m, i, o: net and o)
    return net


def test_what_is_remembered_keeps_nothing_alive():
    """Neither the network, nor a layer that was replaced, nor its weights."""
    net, x = self_referring(), image()
    lucidcam.attribute(net, x, target=1)
    gone = [weakref.ref(each) for each in (net.tail, net.tail.weight, net.settings)]
    net.tail, net.settings = None, Settings()
    gc.collect()
    assert [each() for each in gone] == [None] * 3
    lucidcam.attribute(net, x, target=1)
    gone = weakref.ref(net)
    del net
    gc.collect()
    assert gone() is None


def test_addresses_that_are_used_again():
    """Thirty layers in one place, most at the address of the one before; with and without pooling, in turn."""
    net, x = built(), image()
    for i in range(30):
        net.tail = None
        net.tail = conv(i) if i % 2 else nn.MaxPool2d(2)
        default = next(name for name, layer in lucidcam.layers(net, x).items() if layer.default) if i > 27 else None
        assert default in (None, "tail" if i % 2 else "block")
        assert lucidcam.attribute(net, x, target=1).shape[1:] == (12, 10)


def test_a_layer_that_two_networks_share():
    one, two, x = built(), built(), image()
    two.block = one.block
    for net in (one, two):
        lucidcam.attribute(net, x, target=1)
    one.block.append(conv(4))
    for net in (one, two):
        same(answers(net, x, ["gradcam"]), answers(copy.deepcopy(net), x, ["gradcam"]))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_changes_one_after_the_other(seed):
    """Random changes of one network, explained by a random method after each, as a copy that was never explained."""
    draws = random.Random(seed)
    kinds = [
        kind
        for kind in CHANGES
        if kind not in (*PREPARED, *PATCHES, "orthogonal", "quantised") and "forward" not in kind and "method" not in kind
    ]
    net, x = built(), image()
    net.tail = conv(3)
    for _ in range(12):
        try:
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                CHANGES[draws.choice(kinds)](net)
        except (AttributeError, TypeError, IndexError, RuntimeError, ValueError, KeyError):
            continue  # an earlier change left nothing for this one
        method = draws.choice(METHODS)
        try:
            expected = answers(copy.deepcopy(net), x, [method])
        except Exception as error:  # the changes left no network that runs
            with pytest.raises(type(error)):
                answers(net, x, [method])
            return
        same(answers(net, x, [method]), expected)
