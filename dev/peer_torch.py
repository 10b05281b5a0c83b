#!/usr/bin/env python3
"""
peer_torch.py: the same GPT-2 with DynMoE layers in PyTorch, as fast as PyTorch goes: what our CUDA program is measured against.

    python3 dev/peer_torch.py --check test/fixtures/*.safetensors   same losses and gradients as the oracle, dev/dynmoe.py?
    python3 dev/peer_torch.py --device cuda --dtype bf16 --dispatch grouped_mm --compile blocks --k 2     one line of JSON
    python3 dev/peer_torch.py --config small --k 1.74               the same on a CPU: dev/bench_peer.sh compares with our C program
    python3 dev/peer_torch.py --micro                               products, experts, attention, bandwidth, latency

Three ways to bring rows to experts:
    index       rows of one expert side by side, then a loop over experts; any PyTorch from 1.13 on
    grouped_mm  the same rows, and one product for all experts: torch.nn.functional.grouped_mm, PyTorch 2.10 (or _grouped_mm), bf16
    onehot      what the authors' code does: a dense (N, E, capacity) tensor whose products move the rows; quadratic in N

--k X routes by a table drawn with --seed instead of by the gate, X experts a token in the mean, --zipf S skews their loads. The
gate is still computed, and trained straight through. So two dispatches, or two machines, get the same rows.

Letters as in our programs: B sequences, T tokens, N = B*T, C channels, E experts, H hidden width of an expert, R routed rows.
Caveats: no shared experts, no aux losses, the pool stays as it is. The vocabulary is padded to a multiple of 128 and all of it
takes part in the softmax, as PyTorch users do. What needs a newer PyTorch than this one says so in one line.
"""
import argparse
import contextlib
import json
import math
import os
import sys
import time
from types import SimpleNamespace

try:
    import torch
    import torch.nn as nn
    import torch.nn.functional as F
except ImportError as e:
    sys.stderr.write("peer_torch.py: %s\n---> HINT: install PyTorch, or leave the peer out\n" % e)
    sys.exit(1)


class Parser(argparse.ArgumentParser):
    def error(self, message):
        sys.stderr.write("peer_torch.py: %s\n---> HINT: python3 dev/peer_torch.py --help\n" % message)
        sys.exit(2)


def die(message, hint):
    sys.stderr.write("peer_torch.py: %s\n---> HINT: %s\n" % (" ".join(str(message).split())[:400], hint))
    sys.exit(1)


GROUPED_MM = getattr(F, "grouped_mm", None) or getattr(torch, "_grouped_mm", None)
SDPA = getattr(F, "scaled_dot_product_attention", None)
DTYPES = {"fp64": torch.float64, "fp32": torch.float32, "bf16": torch.bfloat16}
MISSING = "not available in torch %s" % torch.__version__

# ----------------------------------------------------------------------------
# the layer: gate, rows, experts, combine

def fixed_act(N, E, k, zipf, seed, exact=False):
    # (N, E) of 0 and 1, drawn on the CPU so that every device gets the same. Expert e is open with probability p_e, all equal
    # or falling like 1 / rank^zipf, at most 1, and k in the sum. exact: the N p_e tokens with the smallest draws.
    share = torch.arange(1, E + 1, dtype=torch.float64) ** -zipf
    low, high = 0.0, 1e6
    for _ in range(200):            # the factor at which min(1, factor * share) adds up to k
        middle = (low + high) / 2
        low, high = (middle, high) if (middle * share).clamp(max=1).sum() < k else (low, middle)
    draw = torch.rand(N, E, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    if exact:
        return (draw.argsort(0).argsort(0) < (N * (high * share).clamp(max=1)).round()).float()
    return (draw < (high * share).clamp(max=1)).float()


def rows_of(act):
    # act (N, E) -> expert and token of every row, grouped by expert, in token order within; the end of each group. One sync.
    e, n = act.detach().t().nonzero(as_tuple=True)
    return e, n, act.detach().sum(0).cumsum(0).to(torch.int32)


class DynMoE(nn.Module):
    def __init__(self, cfg, layer):
        super().__init__()
        self.cfg = cfg
        self.gatew = nn.Parameter(torch.empty(cfg.E, cfg.C))
        self.gateG = nn.Parameter(torch.zeros(cfg.E))
        self.fcw = nn.Parameter(torch.empty(cfg.E, cfg.H, cfg.C))
        self.fcb = nn.Parameter(torch.zeros(cfg.E, cfg.H))
        self.fcprojw = nn.Parameter(torch.empty(cfg.E, cfg.C, cfg.H))
        self.fcprojb = nn.Parameter(torch.zeros(cfg.E, cfg.C))
        self.register_buffer("mask", torch.ones(cfg.E))
        fixed = fixed_act(cfg.B * cfg.T, cfg.E, cfg.k, cfg.zipf, cfg.seed + layer, cfg.exact) if cfg.k is not None else None
        self.register_buffer("fixed", fixed)

    def gate(self, x):
        # x (N, C) -> weights (N, E) of the sum, and act (N, E) in {0, 1}. In float (or double), also inside autocast.
        with torch.autocast(x.device.type, enabled=False):
            wide = torch.promote_types(x.dtype, torch.float32)
            cos = F.normalize(x.to(wide), dim=1, eps=1e-12) @ F.normalize(self.gatew.to(wide), dim=1, eps=1e-12).t()
            G, mask = self.gateG.to(wide), self.mask.to(wide)
            hard = ((cos > G) & (mask > 0)).to(wide) if self.fixed is None else self.fixed.to(wide)
            soft = mask * torch.sigmoid(self.cfg.tau * cos) - torch.sigmoid(self.cfg.tau * G)
            act = hard + hard * (soft - soft.detach())      # straight through: the value of hard, the gradient of soft where open
            k = act.sum(1, keepdim=True)
            k = (k.detach() if self.cfg.detached else k).clamp(min=1)
            return act / k, hard

    def grouped(self, x, w, e, n, ends):
        # one product for all experts. xp has exactly ends[-1] rows: what lies behind them would stay uninitialised, also in the
        # gradient. Groups may be empty. The bias cannot be given to grouped_mm. Weights are transposed without a copy.
        parts = (x.index_select(0, n), self.fcw, self.fcb, self.fcprojw, self.fcprojb)
        xp, w1, b1, w2, b2 = [t.to(self.cfg.product) for t in parts]
        h = F.gelu(self.cfg.grouped_mm(xp, w1.transpose(-2, -1), offs=ends) + b1[e], approximate="tanh")
        return self.back(x, w, e, n, self.cfg.grouped_mm(h, w2.transpose(-2, -1), offs=ends) + b2[e])

    def loop(self, x, w, e, n, ends):
        # unbind: its backward stacks the gradients once; w[i] would write a gradient of the whole pool for each expert
        out, begin = [], 0
        xp = x.index_select(0, n)
        pool = zip(ends.tolist(), self.fcw.unbind(), self.fcb.unbind(), self.fcprojw.unbind(), self.fcprojb.unbind())
        for end, w1, b1, w2, b2 in pool:
            if end > begin:
                out.append(F.linear(F.gelu(F.linear(xp[begin:end], w1, b1), approximate="tanh"), w2, b2))
            begin = end
        return self.back(x, w, e, n, torch.cat(out))

    def back(self, x, w, e, n, yp):
        # the weighted sum of each token's rows yp (R, C), as wide as w
        yp = yp.to(w.dtype) * w[n, e].unsqueeze(1)
        if self.cfg.combine == "index_add":
            return torch.zeros(x.shape, dtype=w.dtype, device=x.device).index_add(0, n, yp).to(x.dtype)
        # gather: the row of each pair (token, expert), and behind the last one a row of zeros for pairs that have none
        place = torch.full(w.shape, n.shape[0], device=x.device, dtype=torch.int64)
        place[n, e] = torch.arange(n.shape[0], device=x.device)
        return torch.cat([yp, yp.new_zeros(1, yp.shape[1])])[place].sum(1).to(x.dtype)

    def by_rows(self, x, w, hard):
        e, n, ends = rows_of(hard)
        # no token has an expert: products without rows are not safe everywhere, and there is no gradient
        if not self.cfg.whole and n.shape[0] == 0:
            return torch.zeros_like(x)
        return (self.grouped if self.cfg.dispatch == "grouped_mm" else self.loop)(x, w, e, n, ends)

    def by_onehot(self, x, w, hard):
        # combine (N, E, capacity) holds w where token n is the c-th of expert e; it moves the rows there and back. Every expert
        # computes capacity rows, the most that any expert has.
        place = torch.cumsum(hard, 0) - 1
        capacity = int(hard.sum(0).max())           # one sync
        if capacity == 0:
            return torch.zeros_like(x)
        slots = F.one_hot(place.clamp(min=0).long(), capacity).to(w.dtype) * hard.unsqueeze(-1)
        combine = w.unsqueeze(-1) * slots
        xp = torch.einsum("nec,nm->ecm", combine.detach().bool().to(x.dtype), x)
        h = torch.baddbmm(self.fcb.to(xp.dtype).unsqueeze(1), xp, self.fcw.to(xp.dtype).transpose(1, 2))
        yp = torch.baddbmm(self.fcprojb.to(xp.dtype).unsqueeze(1), F.gelu(h, approximate="tanh"),
                           self.fcprojw.to(xp.dtype).transpose(1, 2))
        return torch.einsum("nec,ecm->nm", combine.to(yp.dtype), yp).to(x.dtype)

    def forward(self, x):
        w, hard = self.gate(x)
        return (self.by_onehot if self.cfg.dispatch == "onehot" else self.by_rows)(x, w, hard)


# ----------------------------------------------------------------------------
# GPT-2

class Block(nn.Module):
    def __init__(self, cfg, layer):
        super().__init__()
        C = cfg.C
        self.NH = cfg.NH
        # -inf above the diagonal, for a PyTorch without SDPA
        mask = None if SDPA else torch.full((cfg.T, cfg.T), -math.inf).triu(1)
        self.register_buffer("mask", mask)
        self.ln1, self.ln2 = nn.LayerNorm(C), nn.LayerNorm(C)
        self.qkv, self.attproj = nn.Linear(C, 3 * C), nn.Linear(C, C)
        self.moe = DynMoE(cfg, layer) if layer in cfg.moe_layers else None
        if self.moe is None:
            self.fc, self.fcproj = nn.Linear(C, 4 * C), nn.Linear(4 * C, C)

    def attention(self, x):
        B, T, C = x.shape
        q, k, v = [t.reshape(B, T, self.NH, C // self.NH).transpose(1, 2) for t in self.qkv(x).split(C, 2)]
        if SDPA:
            y = SDPA(q, k, v, is_causal=True)
        else:
            # scale and mask inside of the product: no pass of their own over (B, NH, T, T)
            q, k, v = [t.reshape(B * self.NH, T, C // self.NH) for t in (q, k, v)]
            mask = self.mask[:T, :T].to(q.dtype)
            att = torch.baddbmm(mask.expand(q.shape[0], T, T), q, k.transpose(1, 2), alpha=1 / math.sqrt(C // self.NH))
            y = (torch.softmax(att, -1).to(v.dtype) @ v).reshape(B, self.NH, T, C // self.NH)
        return self.attproj(y.transpose(1, 2).reshape(B, T, C))

    def before(self, x):
        x = x + self.attention(self.ln1(x))
        u = self.ln2(x)
        return (x, u) if self.moe is not None else x + self.fcproj(F.gelu(self.fc(u), approximate="tanh"))

    def forward(self, x):
        if self.moe is None:
            return self.before(x)
        x, u = self.before(x)
        return x + self.moe(u.reshape(-1, u.shape[-1])).reshape(u.shape)


class GPT2(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.cfg = cfg
        self.wte, self.wpe = nn.Embedding(cfg.Vp, cfg.C), nn.Embedding(cfg.T, cfg.C)
        self.h = nn.ModuleList(Block(cfg, l) for l in range(cfg.L))
        self.lnf = nn.LayerNorm(cfg.C)

    def forward(self, x, y):
        r = self.wte(x) + self.wpe(torch.arange(x.shape[1], device=x.device))
        for block in self.h:
            r = block(r)
        return self.loss_of(r, y)

    def loss_of(self, r, y):
        logits = F.linear(self.lnf(r), self.wte.weight).reshape(-1, self.cfg.Vp)[:, :self.cfg.V]
        return F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), y.reshape(-1))


def mean_k(model, x, y):
    # mean experts of a token, over layers: one more forward, outside of what is measured and compiled
    k = []
    hooks = [b.moe.register_forward_pre_hook(lambda m, inputs: k.append(float(m.gate(inputs[0])[1].sum(1).mean())))
             for b in model.h if b.moe is not None]
    with torch.no_grad():
        model(x, y)
    for hook in hooks:
        hook.remove()
    return sum(k) / len(k) if k else 0.0


def our_name(name):
    # h.0.ln1.weight -> h.0.ln1w, h.0.moe.fcw stays, wte.weight -> wte: the names of our files
    name = name.replace(".weight", "w").replace(".bias", "b")
    return {"wtew": "wte", "wpew": "wpe"}.get(name, name)


def initialise(model, cfg):
    # as GPT-2: normal 0.02, residual projections smaller; orthonormal rows for the gate
    g = torch.Generator().manual_seed(cfg.seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("gatew"):
                p.copy_(torch.linalg.qr(torch.randn(cfg.C, cfg.E, generator=g, dtype=torch.float64))[0].t())
            elif p.dim() > 1 and not name.endswith(("fcb", "fcprojb")):
                p.normal_(0, 0.02 / (math.sqrt(2 * cfg.L) if "proj" in name else 1))
            elif name.endswith("bias"):
                p.zero_()
            elif name.endswith("gateG"):
                p.fill_(cfg.threshold)

# ----------------------------------------------------------------------------
# one measured run

def attention_backend(name):
    # a context in which scaled_dot_product_attention takes the named implementation, or the fastest that there is
    if not SDPA or name == "any":
        return contextlib.nullcontext
    try:
        from torch.nn.attention import SDPBackend, sdpa_kernel
        one = {"cudnn": "CUDNN_ATTENTION", "flash": "FLASH_ATTENTION", "efficient": "EFFICIENT_ATTENTION", "math": "MATH"}
        if name != "auto":
            return lambda: sdpa_kernel([getattr(SDPBackend, one[name])])
        order = [getattr(SDPBackend, n) for n in one.values() if hasattr(SDPBackend, n)]
        with sdpa_kernel(order, set_priority=True):     # older ones do not know set_priority
            pass
        return lambda: sdpa_kernel(order, set_priority=True)
    except (ImportError, TypeError, AttributeError) as e:
        if name != "auto":
            die("--attention %s: %s (%s)" % (name, MISSING, e), "--attention any")
        return contextlib.nullcontext


def median(values):
    v = sorted(values)
    return (v[(len(v) - 1) // 2] + v[len(v) // 2]) / 2


def timed(f, device, repeat, warmup):
    # median milliseconds of f(): on a GPU between two events, else by the clock
    for _ in range(warmup):
        f()
    if device != "cuda":
        times = []
        for _ in range(repeat):
            start = time.perf_counter()
            f()
            times.append(1e3 * (time.perf_counter() - start))
        return median(times)
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeat)]
    torch.cuda.synchronize()
    for begin, end in events:
        begin.record()
        f()
        end.record()
    torch.cuda.synchronize()
    return median([begin.elapsed_time(end) for begin, end in events])


def compiled(model, how, mode):
    # whole: all of it, also finding the rows, whose number a compiler cannot know. blocks: piece by piece around that; sizes that
    # change from layer to layer become variables. The loop over experts of --dispatch index stays as it is.
    if how == "no":
        return model
    if not hasattr(torch, "compile"):
        die("--compile: " + MISSING, "--compile no")
    mode = None if mode == "default" else mode
    if how == "whole":
        import torch._dynamo as dynamo
        dynamo.config.capture_dynamic_output_shape_ops = True
        return torch.compile(model, mode=mode)
    for cls, names in ((Block, ("before",)), (DynMoE, ("gate", "grouped", "back", "by_onehot")), (GPT2, ("loss_of",))):
        for name in names:
            setattr(cls, name, torch.compile(getattr(cls, name), mode=mode))
    return model


LR, BETAS, EPS, DECAY = 1e-6, (0.9, 0.99), 1e-8, 0.1


class FlatAdamW:
    # AdamW for a PyTorch without a fused one: all parameters lie in two tensors (with and without decay), all gradients too.
    # Block by block, so that what the first operation brought into the cache is still there for the last.
    BLOCK = 1 << 18

    def __init__(self, model, lr):
        self.lr, self.t, self.flat = lr, 0, []
        for decays in (True, False):
            params = [p for p in model.parameters() if (p.dim() > 1) == decays]
            n = sum(p.numel() for p in params)
            memory = [torch.zeros(n, dtype=params[0].dtype, device=params[0].device) for _ in range(4)]
            at = 0
            for p in params:
                end = at + p.numel()
                memory[0][at:end].copy_(p.data.reshape(-1))
                p.data, p.grad, at = memory[0][at:end].view_as(p), memory[1][at:end].view_as(p), end
            blocks = list(zip(*[x.split(self.BLOCK) for x in memory]))
            self.flat.append((DECAY * decays, memory[1], blocks))

    def clip(self, limit):      # the factor goes into step: no pass over the gradients of its own
        self.scale = float(torch.stack([g.norm() for _, g, _ in self.flat]).norm())
        self.scale = min(1.0, limit / (self.scale + 1e-6))

    @torch.no_grad()
    def step(self):
        self.t += 1
        first, second = [1 - b ** self.t for b in BETAS]
        for decay, _, blocks in self.flat:
            for p, g, m, v in blocks:
                m.mul_(BETAS[0]).add_(g, alpha=(1 - BETAS[0]) * self.scale)
                v.mul_(BETAS[1]).addcmul_(g, g, value=(1 - BETAS[1]) * self.scale ** 2)
                if decay:
                    p.mul_(1 - self.lr * decay)
                p.addcdiv_(m, v.sqrt().add_(EPS * math.sqrt(second)), value=-self.lr * math.sqrt(second) / first)
                g.zero_()       # and with that the gradients are ready for the next step

    def zero_grad(self, set_to_none=True):
        pass


class TorchAdamW:
    def __init__(self, model, lr, fused):
        groups = [{"params": [p for p in model.parameters() if (p.dim() > 1) == decays], "weight_decay": DECAY * decays}
                  for decays in (True, False)]
        self.params = list(model.parameters())
        self.adamw = torch.optim.AdamW(groups, lr=lr, betas=BETAS, eps=EPS, **({"fused": True} if fused else {}))
        self.step, self.zero_grad = self.adamw.step, self.adamw.zero_grad

    def clip(self, limit):
        torch.nn.utils.clip_grad_norm_(self.params, limit)


def adamw(model, how):
    # fused where this PyTorch has it (on a CPU from 2.4 on), else flat; torch: what a user gets who asks for nothing
    if how in ("auto", "fused"):
        try:
            return TorchAdamW(model, LR, True), "fused"
        except (TypeError, RuntimeError) as e:
            if how == "fused":
                die("--optimizer fused: %s (%s)" % (MISSING, e), "--optimizer flat")
    return (TorchAdamW(model, LR, False), "torch") if how == "torch" else (FlatAdamW(model, LR), "flat")


def blas_of_process():
    # what multiplies: MKL inside of PyTorch, or the file of a library of its own
    if torch.backends.mkl.is_available():
        return "MKL"
    try:
        with open("/proc/self/maps") as f:
            files = sorted({os.path.realpath(l.split()[-1]) for l in f if ".so" in l and "openblas" in l and "/numpy" not in l})
    except OSError:
        files = []
    return " ".join(os.path.join(os.path.basename(os.path.dirname(f)), os.path.basename(f)) for f in files[-1:]) or "?"


def run(a, cfg):
    torch.manual_seed(a.seed)
    if a.device == "cuda":
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = True
        torch.backends.cuda.matmul.allow_tf32 = True
    model = GPT2(cfg)
    initialise(model, cfg)
    if a.dtype == "fp64":
        model.double()
    if a.pure and a.dtype == "bf16":        # parameters in bf16 too, all but the gate; else masters in fp32 and autocast
        for name, p in model.named_parameters():
            if ".moe.gate" not in name:
                p.data = p.data.to(torch.bfloat16)
    model.to(a.device)
    n = sum(p.numel() for p in model.parameters())
    optimizer, how = adamw(model, a.optimizer)
    g = torch.Generator().manual_seed(a.seed)
    x = torch.randint(0, cfg.V, (cfg.B, cfg.T + 1), generator=g).to(a.device)
    x, y = x[:, :-1].contiguous(), x[:, 1:].contiguous()
    step_model = compiled(model, a.compile, a.compile_mode)
    cast = torch.autocast(a.device, dtype=torch.bfloat16, enabled=a.dtype == "bf16" and not a.pure)
    seen = SimpleNamespace(loss=None)

    def step():
        with cast:
            seen.loss = step_model(x, y)
        seen.loss.backward()
        optimizer.clip(1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    with attention_backend(a.attention)():
        start = time.perf_counter()
        ms = timed(step, a.device, a.steps, a.warmup)
    loss = float(seen.loss.detach())
    if not math.isfinite(loss):
        die("the loss is %g" % loss, "a bug here, or in this PyTorch: the time means nothing")
    if a.device == "cuda":
        peak, device = torch.cuda.max_memory_allocated() / 1e6, torch.cuda.get_device_name()
    else:
        import resource
        peak, device = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3, "cpu"
    seconds = time.perf_counter() - start
    seen.loss = optimizer = None        # room for one more forward
    with cast:
        k = mean_k(model, x, y)
    result = dict(program="peer_torch", dispatch=a.dispatch if cfg.moe_layers else "dense", combine=a.combine, compile=a.compile,
                  compile_mode=a.compile_mode, dtype=a.dtype, pure=int(a.pure), attention=a.attention if SDPA else "ours", B=cfg.B,
                  T=cfg.T, C=cfg.C, L=cfg.L, NH=cfg.NH, V=cfg.V, E=cfg.E if cfg.moe_layers else 0, H=cfg.H, moe=len(cfg.moe_layers),
                  k=round(k, 4), fixed=int(cfg.k is not None), zipf=cfg.zipf, parameters=n, steps=a.steps, ms=round(ms, 3),
                  tok_s=round(cfg.B * cfg.T / ms * 1e3, 1), peak_mb=round(peak, 1), loss=round(loss, 5),
                  seconds=round(seconds, 1), device=device, threads=torch.get_num_threads(), optimizer=how,
                  blas=blas_of_process() if a.device == "cpu" else "", torch=str(torch.__version__),
                  cuda=torch.version.cuda or "", cudnn=(torch.backends.cudnn.version() or 0) if a.device == "cuda" else 0)
    if a.config:
        result["config"] = a.config
    print(json.dumps(result))

# ----------------------------------------------------------------------------
# --check: loss and every gradient beside the oracle's, in double; every dispatch and combine that works here

def grouped_mm_in_words(x, w, offs):
    # x (R, K), w (E, K, M): the rows of group i times w[i]; rows behind the last group would be anything
    ends = offs.tolist()
    out = [x[s:t] @ m for s, t, m in zip([0] + ends[:-1], ends, w)]
    return torch.cat(out + [x.new_full((x.shape[0] - ends[-1], w.shape[2]), math.nan)])


def check_one(path, oracle, device):
    tensors, meta = oracle.read_safetensors(path)
    if meta.get("model", "gpt2") != "gpt2" or meta.get("router", "top-any") != "top-any" or meta.get("shared", "0") != "0":
        print("%s: left out, the peer has no %s" % (path, "such model, router or shared experts"))
        return 0, 0
    o = oracle.parse_config(meta, path)
    o.aux = [0.0] * len(o.aux)
    P = oracle.take(tensors, "param/", oracle.parameter_shapes(o), path, torch.float64)
    mask = oracle.take_masks(tensors, "param/", o, path, torch.float64)
    data = oracle.take(tensors, "data/", {n: (o.n_steps, o.B, o.T) for n in "xy"}, path, torch.int64)
    x, y = data["x"][0], data["y"][0]
    P = {n: p.requires_grad_(True) for n, p in P.items()}
    want = oracle.forward(P, mask, o, x, y)
    names = list(P)
    want_grads = dict(zip(names, torch.autograd.grad(want.ce, [P[n] for n in names], allow_unused=True)))
    recorded = tensors["exp/ce"].item()

    # dispatch, combine, dtype, where, allowed error (loss relative; gradients relative to the largest of their tensor)
    cases = [(d, c, "fp64", "cpu", 1e-10) for d, c in (("index", "index_add"), ("index", "gather"), ("onehot", "index_add"),
                                                       ("grouped_mm in words", "index_add"))]
    cases += [(d, "index_add", "fp32", "cpu", 1e-5) for d in ("index", "onehot", "grouped_mm in words")]
    if device == "cuda":
        cases += [(d, "index_add", "fp32", "cuda", 1e-4) for d in ("index", "onehot")]
    if GROUPED_MM and o.C % 8 == 0 and o.H % 8 == 0 and o.moe_layers:   # rows of 16 bytes; its products are bf16
        cases += [("grouped_mm", c, "fp32", device, 0.05) for c in ("index_add", "gather")]
    bad = 0
    for dispatch, combine, dtype, where, allowed in cases:
        cfg = SimpleNamespace(B=o.B, T=o.T, C=o.C, L=o.L, NH=o.NH, V=o.V, Vp=o.Vp, E=o.E, H=o.H, moe_layers=o.moe_layers,
                              tau=o.scale, detached=o.kgrad == "detached", dispatch=dispatch.split()[0], combine=combine, k=None,
                              zipf=0.0, exact=False, seed=0, whole=False, grouped_mm=GROUPED_MM, product=torch.bfloat16)
        if "in words" in dispatch:
            cfg.grouped_mm, cfg.product = grouped_mm_in_words, DTYPES[dtype]
        model = GPT2(cfg).double()
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.copy_(P[our_name(name)])
            for l in o.moe_layers:
                model.h[l].moe.mask.copy_(mask[l])
        model.to(where, DTYPES[dtype])
        loss = model(x.to(where), y.to(where))
        loss.backward()
        worst, at = max(abs(loss.item() - v) for v in (want.ce.item(), recorded)) / recorded, "loss"
        for name, p in model.named_parameters():
            w = want_grads[our_name(name)]
            w = torch.zeros_like(P[our_name(name)]) if w is None else w
            g = torch.zeros_like(w) if p.grad is None else p.grad.double().cpu()
            # what is zero but for rounding, like the key's bias, is measured against the other gradients
            scale = max(float(w.abs().max()), 1e-3 * max(float(v.abs().max()) for v in want_grads.values() if v is not None))
            error = float((g - w).abs().max()) / scale
            if not error <= worst:
                worst, at = error, our_name(name)
        ok = worst <= allowed
        bad += not ok
        print("%s: %s, %s, %s, %s: largest error %.1e (%s), allowed %.0e%s" % (
            path, dispatch, combine, dtype, where, worst, at, allowed, "" if ok else "  FAILED"))
    return len(cases), bad


def check(a):
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import dynmoe as oracle
    done = bad = 0
    for path in a.check:
        try:
            n, b = check_one(path, oracle, a.device)
        except OSError as e:
            die("%s: %s" % (path, e.strerror), "fixtures are test/fixtures/*.safetensors")
        except oracle.UserError as e:
            sys.stderr.write("peer_torch.py: %s\n" % e)
            sys.exit(1)
        done, bad = done + n, bad + b
    if not GROUPED_MM:
        print("grouped_mm: " + MISSING)
    print("%d passed, %d failed" % (done - bad, bad))
    sys.exit(1 if bad or not done else 0)

# ----------------------------------------------------------------------------
# --micro: five questions about this machine, a line each answer

def micro_line(name, f):
    # f() -> text; a part that does not work here says why, and the others go on
    try:
        text = f()
    except Exception as e:      # any: out of memory, no kernel for these sizes, an argument that this version lacks
        text = "not measured: " + " ".join(str(e).split())[:120]
    print("%-46s %s" % (name, text), flush=True)


def rate(ms, flop):
    return "%9.4f ms  %7.1f TFLOP/s" % (ms, flop / ms / 1e9)


def micro_products(a, dtype, cfg):
    # (1) forward x W^T, the gradient of x, the gradient of W, at the shapes of the model
    C = cfg.C
    for name, K, M in (("qkv", C, 3 * C), ("attproj", C, C), ("fc", C, 4 * C), ("fcproj", 4 * C, C), ("head", C, cfg.Vp)):
        def shapes(kind):
            N = cfg.B * cfg.T
            x, w, d = [torch.randn(s, device=a.device, dtype=dtype) for s in ((N, K), (M, K), (N, M))]
            f = {"forward": lambda: x @ w.t(), "dx": lambda: d @ w, "dW": lambda: d.t() @ x}[kind]
            return rate(timed(f, a.device, 20, 3), 2.0 * N * K * M)
        for kind in ("forward", "dx", "dW"):
            micro_line("1 %s %s, N %d, %d -> %d" % (name, kind, cfg.B * cfg.T, K, M), lambda: shapes(kind))


def expert_rows(N, E, load):
    # rows of each expert at k = 2: equal, or like 1 / rank^0.7
    share = torch.arange(1, E + 1, dtype=torch.float64) ** -(0.7 if load == "zipf" else 0.0)
    counts = (2 * N * share / share.sum()).round().long()
    counts[0] += 2 * N - counts.sum()
    return counts.tolist()


def micro_experts(a, dtype, cfg, sizes):
    # (2) the first product of all experts: a loop, or grouped_mm; forward and both gradients
    E = cfg.E
    for N, C in sizes:
        for load in ("balanced", "zipf"):
            counts = expert_rows(N, E, load)
            R, H = sum(counts), 4 * C
            ends = [sum(counts[:i + 1]) for i in range(E)]
            spans = list(zip([0] + ends[:-1], ends))

            def loop(kind):
                x, d = torch.randn(R, C, device=a.device, dtype=dtype), torch.randn(R, H, device=a.device, dtype=dtype)
                w, b = torch.randn(E, H, C, device=a.device, dtype=dtype), torch.randn(E, H, device=a.device, dtype=dtype)
                f = {"forward": lambda: [torch.addmm(b[i], x[s:t], w[i].t()) for i, (s, t) in enumerate(spans)],
                     "dx": lambda: [d[s:t] @ w[i] for i, (s, t) in enumerate(spans)],
                     "dW": lambda: [d[s:t].t() @ x[s:t] for s, t in spans]}[kind]
                return rate(timed(f, a.device, 20, 3), 2.0 * R * C * H)

            def grouped(kind):
                if not GROUPED_MM:
                    return MISSING
                offs = torch.tensor(ends, dtype=torch.int32, device=a.device)
                x = torch.randn(R, C, device=a.device, dtype=torch.bfloat16, requires_grad=kind == "dx")
                w = torch.randn(E, H, C, device=a.device, dtype=torch.bfloat16, requires_grad=kind == "dW")
                d = torch.randn(R, H, device=a.device, dtype=torch.bfloat16)
                f = lambda: GROUPED_MM(x, w.transpose(-2, -1), offs=offs)
                if kind != "forward":
                    y, leaf = f(), x if kind == "dx" else w
                    f = lambda: torch.autograd.grad(y, leaf, d, retain_graph=True)
                return rate(timed(f, a.device, 20, 3), 2.0 * R * C * H)

            for how, f in (("loop", loop), ("grouped_mm", grouped)):
                for kind in ("forward", "dx", "dW"):
                    micro_line("2 experts %s %s, N %d, C %d, %s" % (how, kind, N, C, load), lambda: f(kind))


def micro_attention(a, dtype, shapes):
    # (3) scaled_dot_product_attention by each of its implementations; the backward alone
    for B, NH, T, HS, causal in shapes:
        flop = 4.0 * B * NH * T * T * HS * (0.5 if causal else 1.0)
        for name in ("cudnn", "flash", "efficient", "math"):
            def attend(kind):
                if not SDPA:
                    return MISSING
                try:
                    from torch.nn.attention import SDPBackend, sdpa_kernel
                    backend = getattr(SDPBackend, {"cudnn": "CUDNN_ATTENTION", "flash": "FLASH_ATTENTION", "math": "MATH",
                                                   "efficient": "EFFICIENT_ATTENTION"}[name])
                except (ImportError, AttributeError):
                    return MISSING
                q, k, v, d = [torch.randn(B, NH, T, HS, device=a.device, dtype=dtype) for _ in range(4)]
                q, k, v = [t.requires_grad_(kind == "backward") for t in (q, k, v)]
                with sdpa_kernel([backend]):
                    f = lambda: SDPA(q, k, v, is_causal=causal)
                    if kind == "forward":
                        return rate(timed(f, a.device, 20, 3), flop)
                    y = f()
                    back = lambda: torch.autograd.grad(y, (q, k, v), d, retain_graph=True)
                    return rate(timed(back, a.device, 20, 3), 2.5 * flop)
            for kind in ("forward", "backward"):
                micro_line("3 attention %s %s, %dx%dx%dx%d%s" % (name, kind, B, NH, T, HS, " causal" if causal else ""),
                           lambda: attend(kind))


def micro_bandwidth(a, dtype, cfg):
    # (4) a copy and a LayerNorm of (N, C): read once, written once
    N, C = cfg.B * cfg.T, cfg.C

    def bandwidth(kind):
        x = torch.randn(N, C, device=a.device, dtype=dtype)
        y, w, b = torch.empty_like(x), torch.ones(C, device=a.device, dtype=dtype), torch.zeros(C, device=a.device, dtype=dtype)
        f = {"copy": lambda: y.copy_(x), "LayerNorm": lambda: F.layer_norm(x, (C,), w, b)}[kind]
        ms = timed(f, a.device, 20, 3)
        return "%9.4f ms  %7.3f TB/s" % (ms, 2.0 * x.numel() * x.element_size() / ms / 1e9)

    for kind in ("copy", "LayerNorm"):
        micro_line("4 %s, N %d, C %d" % (kind, N, C), lambda: bandwidth(kind))


def micro_latency(a, cfg):
    # (5) E counts to pinned memory, an event, waiting for it: what a layer pays to know its rows
    def latency():
        if a.device != "cuda":
            return "measured on a GPU only"
        counts, host = torch.zeros(cfg.E, dtype=torch.int32, device="cuda"), torch.zeros(cfg.E, dtype=torch.int32).pin_memory()
        event, times = torch.cuda.Event(), []
        for i in range(23):
            torch.cuda.synchronize()
            start = time.perf_counter()
            counts.add_(1)                  # a kernel to wait for
            host.copy_(counts, non_blocking=True)
            event.record()
            event.synchronize()
            times.append(1e6 * (time.perf_counter() - start))
        return "%9.2f us" % median(times[3:])
    micro_line("5 kernel, %d counts to the host, wait" % cfg.E, latency)


def micro(a, cfg):
    cuda = a.device == "cuda"
    name = torch.cuda.get_device_name() if cuda else "cpu"
    print("%s, torch %s, CUDA %s, %s; each the median of 20" % (name, torch.__version__, torch.version.cuda, a.dtype))
    dtype = DTYPES[a.dtype]
    micro_products(a, dtype, cfg)
    micro_experts(a, dtype, cfg, [(65536, 768), (8192, 768), (50432, 384), (33280, 192)] if cuda else [(cfg.B * cfg.T, cfg.C)])
    shape = (cfg.B, cfg.NH, cfg.T, cfg.C // cfg.NH, True)
    micro_attention(a, dtype, [shape, (256, 6, 197, 64, False)] if cuda else [shape])
    micro_bandwidth(a, dtype, cfg)
    micro_latency(a, cfg)

# ----------------------------------------------------------------------------

def layer_list(text, L):
    if text in ("every2", "all", "none"):
        return {"every2": list(range(0, L, 2)), "all": list(range(L)), "none": []}[text]
    layers = sorted(set(int(t) for t in text.split(",") if t))
    if any(not 0 <= l < L for l in layers):
        raise ValueError
    return layers


# the configurations that dev/bench and dev/skeleton know by these names
CONFIGS = {"tiny": dict(B=8, T=64, C=128, L=4, NH=4, V=256, E=8), "small": dict(B=4, T=256, C=384, L=6, NH=6, V=256, E=8),
           "124M": dict(B=2, T=256, C=768, L=12, NH=12, V=50257, E=8)}


def main():
    p = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--check", nargs="+", metavar="FILE", help="fixtures: compare loss and gradients with the oracle")
    p.add_argument("--micro", action="store_true", help="five micro-benchmarks")
    p.add_argument("--dispatch", default="index", choices=("index", "grouped_mm", "onehot"), help="rows to experts (index)")
    p.add_argument("--combine", default="index_add", choices=("index_add", "gather"), help="rows back to tokens (index_add)")
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    p.add_argument("--dtype", choices=tuple(DTYPES), help="bf16 on a GPU, else fp32; bf16 is autocast with fp32 masters")
    p.add_argument("--pure", action="store_true", help="with bf16: parameters in bf16 too, no autocast")
    p.add_argument("--compile", default="no", choices=("no", "blocks", "whole"), help="torch.compile (no)")
    p.add_argument("--compile-mode", default="default", help="default, max-autotune-no-cudagraphs, ...")
    p.add_argument("--attention", default="auto", choices=("auto", "any", "cudnn", "flash", "efficient", "math"))
    for name, default, text in (("B", 64, "sequences"), ("T", 1024, "tokens in one"), ("C", 768, "channels"), ("L", 12, "layers"),
                                ("NH", 12, "heads"), ("V", 50304, "vocabulary"), ("E", 8, "experts in a pool"),
                                ("expert-width", 0, "hidden width of an expert (0: 4C)"), ("steps", 20, "steps that are measured"),
                                ("warmup", 5, "steps before them"), ("seed", 1, "of weights, tokens and routing")):
        p.add_argument("--" + name, type=int, default=default, help="%s (%d)" % (text, default))
    p.add_argument("--config", choices=tuple(CONFIGS), help="sets B T C L NH V E")
    p.add_argument("--threads", type=int, default=0, help="of the CPU (0: PyTorch decides)")
    p.add_argument("--optimizer", default="auto", choices=("auto", "fused", "flat", "torch"),
                   help="auto: fused AdamW where there is one, else a flat one; torch: as it comes")
    p.add_argument("--json", action="store_true", help="nothing new: a run prints one line of JSON anyway")
    p.add_argument("--moe-layers", default="every2", help="every2, all, none, or a list (every2)")
    p.add_argument("--k", type=float, help="routed experts of a token, drawn; without it the gate decides")
    p.add_argument("--zipf", type=float, default=0.0, help="with --k: loads like 1 / rank^zipf (0: equal)")
    p.add_argument("--exact", action="store_true", help="with --k: each expert gets its share to the token, not by chance")
    p.add_argument("--threshold", type=float, default=0.0, help="first G of every expert (0)")
    a = p.parse_args()
    for name, value in CONFIGS.get(a.config, {}).items():
        setattr(a, name, value)
    if a.threads < 0:
        p.error("--threads %d: 1 or more, or 0" % a.threads)
    if a.threads:
        torch.set_num_threads(a.threads)
    a.dtype = a.dtype or ("bf16" if a.device == "cuda" else "fp32")
    if a.device == "cuda" and not torch.cuda.is_available():
        die("no GPU that this PyTorch can use", "--device cpu")
    if a.check:
        check(a)
    if min(a.B, a.T, a.C, a.L, a.NH, a.V, a.E, a.steps, a.warmup + 1) < 1 or a.C % a.NH or a.expert_width < 0 or a.E > a.C:
        p.error("a size is out of range: all at least 1, --C a multiple of --NH, --E at most --C")
    if a.k is not None and not 0 <= a.k <= a.E:
        p.error("--k %g: 0 to --E" % a.k)
    try:
        layers = layer_list(a.moe_layers, a.L)
    except ValueError:
        p.error("--moe-layers %s: every2, all, none, or a list of layers" % a.moe_layers)
    cfg = SimpleNamespace(B=a.B, T=a.T, C=a.C, L=a.L, NH=a.NH, V=(a.V + 127) // 128 * 128, Vp=(a.V + 127) // 128 * 128, E=a.E,
                          H=a.expert_width or 4 * a.C, moe_layers=layers, tau=1.0, detached=False, dispatch=a.dispatch,
                          combine=a.combine, k=a.k, zipf=a.zipf, exact=a.exact, seed=a.seed, threshold=a.threshold,
                          whole=a.compile == "whole", grouped_mm=GROUPED_MM, product=torch.bfloat16)
    if a.dispatch == "grouped_mm" and layers and not a.micro:
        if not GROUPED_MM:
            die("--dispatch grouped_mm: " + MISSING, "--dispatch index")
        if a.dtype != "bf16":
            die("--dispatch grouped_mm: its products are bf16", "--dtype bf16")
        if cfg.C % 8 or cfg.H % 8:
            die("--dispatch grouped_mm: wants rows of 16 bytes", "--C and --expert-width multiples of 8")
    try:
        micro(a, cfg) if a.micro else run(a, cfg)
    except Exception as e:      # OutOfMemoryError is a RuntimeError; what a compiler raises may be anything
        if "out of memory" in str(e) or "can't allocate" in str(e):
            die("out of memory: %s" % e, "lower --B")
        if a.compile == "no" or a.micro:
            raise
        die("--compile %s: %s: %s" % (a.compile, type(e).__name__, e), "--compile blocks or no; or another PyTorch")


if __name__ == "__main__":
    main()
