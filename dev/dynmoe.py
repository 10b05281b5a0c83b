#!/usr/bin/env python3
"""
dynmoe.py: DynMoE (Dynamic Mixture of Experts, ICLR 2025) in float64 PyTorch.

This file is the oracle of the project. It is slow, small and plain, and it uses
the symbols of the paper. It is read top to bottom: files, layers, gate, losses, the
routers it is compared with, models (GPT-2 and ViT), optimizer, adaptive process,
tolerances, cases, check, sampling, a GPT-2 file.

  python3 dev/dynmoe.py fixtures [DIR]                  write test/fixtures/ and test/fixtures_vit/
  python3 dev/dynmoe.py check FILE...                   does FILE agree with this program?
  python3 dev/dynmoe.py logits CKPT --prompt TEXT       logits of a checkpoint of the C program
  python3 dev/dynmoe.py logits CKPT --images FILE.bin   the same of a ViT, for images in the layout of CIFAR
  python3 dev/dynmoe.py generate CKPT --prompt TEXT     greedy text from a checkpoint
  python3 dev/dynmoe.py gpt2 FILE.safetensors           random weights under GPT-2's published names

Legend: B sequences, T positions, C channels, V vocabulary, Vp padded vocabulary,
L layers, NH heads, H hidden width of an expert (4C if not said), E experts in the
pool, N = B*T tokens. ViT: B images, T = 1 + patches positions, the class token first.
Paper: x token, W (E, C) one row per expert, G (E) thresholds, tau scale, k experts
per token, R_E and R_S records of use. m (E) is the pool mask: 1 = active.

Caveats: every expert runs on every token (clear, not fast). No dropout. Only what
PyTorch and numpy give; the safetensors reader and writer are below.
"""
import argparse
import json
import math
import os
import struct
import sys
from types import SimpleNamespace

try:
    import numpy as np
    import torch
    import torch.nn.functional as F
except ImportError as e:
    sys.exit("error: %s\n---> HINT: on Debian: apt-get install python3-torch python3-numpy" % e)

torch.set_num_threads(1)  # the sizes are tiny, and one thread gives the same bytes each run

class UserError(Exception):
    """A mistake in the input, not in this program: one line and a hint, no traceback."""

    def __init__(self, message, hint):
        super().__init__("%s\n---> HINT: %s" % (message, hint))

# ----------------------------------------------------------------------------
# safetensors: 8 bytes header length, JSON header, data

DTYPES = {"F64": "<f8", "F32": "<f4", "I64": "<i8", "I32": "<i4", "U8": "|u1"}

def read_safetensors(path):
    """-> tensors {name: array}, metadata {str: str}. The file is not trusted."""
    def bad(why):
        return UserError("%s: %s" % (path, why), "is this a complete safetensors file? write it again")
    with open(path, "rb") as f:
        blob = f.read()
    if len(blob) < 8 or struct.unpack("<Q", blob[:8])[0] > len(blob) - 8:
        raise bad("the header is longer than the file")
    base = 8 + struct.unpack("<Q", blob[:8])[0]
    try:
        header = json.loads(blob[8:base].decode("utf-8"))
        meta = header.pop("__metadata__", {})
        tensors = {}
        for name, t in header.items():
            shape, (begin, end) = [int(n) for n in t["shape"]], t["data_offsets"]
            dtype = np.dtype("<u2" if t["dtype"] == "BF16" else DTYPES[t["dtype"]])
            if min(shape + [begin]) < 0 or end > len(blob) - base:
                raise bad("tensor %s lies outside the file" % name)
            if math.prod(shape) * dtype.itemsize != end - begin:
                raise bad("tensor %s: shape and byte count differ" % name)
            a = np.frombuffer(blob, dtype, math.prod(shape), base + begin).reshape(shape)
            if t["dtype"] == "BF16":  # the upper half of a float32
                a = (a.astype("<u4") << 16).view("<f4")
            tensors[name] = a
        return tensors, {str(k): str(v) for k, v in meta.items()}
    except (ValueError, KeyError, TypeError, AttributeError, UnicodeDecodeError, RecursionError):
        raise bad("the header is not what the format allows")

def write_safetensors(path, tensors, meta):
    """Names sorted, no time stamps: the same tensors give the same bytes."""
    header, data = {"__metadata__": meta}, []
    offset = 0
    for name in sorted(tensors, key=lambda n: (-tensors[n].itemsize, n)):  # keeps the data aligned
        a = np.ascontiguousarray(tensors[name])
        dtype = [k for k, v in DTYPES.items() if np.dtype(v) == a.dtype][0]
        header[name] = {"dtype": dtype, "shape": list(a.shape), "data_offsets": [offset, offset + a.nbytes]}
        offset += a.nbytes
        data.append(a.tobytes())
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + b"".join(data))

# ----------------------------------------------------------------------------
# layers of GPT-2 and ViT

def layernorm(x, w, b):
    # x (..., C), w (C), b (C) -> (..., C)
    mean = x.mean(-1, keepdim=True)
    var = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / torch.sqrt(var + 1e-5) * w + b

def attention(x, P, h, NH, causal):
    # x (B, T, C) -> (B, T, C); h is the prefix "h.N."
    B, T, C = x.shape
    qkv = x @ P[h + "qkvw"].T + P[h + "qkvb"]                                      # (B, T, 3C)
    q, k, v = [t.reshape(B, T, NH, C // NH).transpose(1, 2) for t in qkv.split(C, -1)]  # (B, NH, T, hs)
    att = q @ k.transpose(2, 3) / math.sqrt(C // NH)                               # (B, NH, T, T)
    if causal:
        att = att.masked_fill(torch.ones(T, T, dtype=torch.bool).triu(1), -math.inf)    # the future
    att = torch.softmax(att, -1)
    y = (att @ v).transpose(1, 2).reshape(B, T, C)
    return y @ P[h + "attprojw"].T + P[h + "attprojb"]

def gelu(x):
    # the tanh form of GPT-2, not the exact erf form
    return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x ** 3)))

def mlp(x, P, h):
    # x (N, C) -> (N, C)
    return gelu(x @ P[h + "fcw"].T + P[h + "fcb"]) @ P[h + "fcprojw"].T + P[h + "fcprojb"]

def patches(x, p):
    # x (B, channels, image, image) -> (B, patches, channels*p*p): patches row by row; inside, channel, row, column
    B, ch, n, _ = x.shape
    x = x.reshape(B, ch, n // p, p, n // p, p).permute(0, 2, 4, 1, 3, 5)
    return x.reshape(B, (n // p) ** 2, ch * p * p)

# ----------------------------------------------------------------------------
# the DynMoE layer: top-any gating, eq. (3)-(6)

def unit(x, eps=1e-12):
    # rows of unit length; a zero row stays zero and passes no gradient
    n = x.norm(dim=-1, keepdim=True)
    return torch.where(n > eps, x / n.clamp(min=eps), torch.zeros_like(x))

def gate(x, W, G, m, tau):
    # x (N, C), W (E, C), G (E), m (E) -> cosines c (N, E), gates g (N, E) in {0, 1}
    #   eq. (3)  s = sigmoid(tau cos(x, W_e))     eq. (4)-(5)  g = sign(relu(s - sigmoid(tau G_e)))
    # The decision is cos > G: score and threshold pass the same increasing function.
    # Straight-through: forward the hard g; backward, sign passes the gradient unchanged and
    # relu passes it where the gate is open. A closed gate gets nothing.
    c = unit(x) @ unit(W).T
    a = m * torch.sigmoid(tau * c) - torch.sigmoid(tau * G)
    hard = ((c > G) & (m > 0)).to(x.dtype)
    return c, hard + hard * (a - a.detach())

def top1_fallback(c, g, m):
    # evaluation only: a token without any open gate goes to the active expert of largest cosine
    if m.sum() == 0:
        return g
    top1 = F.one_hot(c.masked_fill(m == 0, -math.inf).argmax(-1), len(m)).to(g.dtype)
    return torch.where(g.sum(-1, keepdim=True) > 0, g, top1)

def experts(x, w1, b1, w2, b2, lnw=None, lnb=None):
    # x (N, C), w1 (E, H, C), b1 (E, H), w2 (E, C, H), b2 (E, C) -> every expert on every token (N, E, C)
    # lnw, lnb (E, C): with them x is the residual stream, and each expert begins with a LayerNorm of its own
    if lnw is None:
        pre = torch.einsum("nc,ehc->neh", x, w1)
    else:
        pre = torch.einsum("nec,ehc->neh", layernorm(x[:, None], lnw, lnb), w1)
    act = gelu(pre + b1)
    return torch.einsum("neh,ech->nec", act, w2) + b2

def combine(g, out, kgrad):
    # eq. (6)  y = (1/k) sum of the open experts; y = 0 where k = 0 (the residual path remains)
    # normalised: the gradient also goes through k = sum_e g_e. detached: k is a constant.
    k = g.sum(-1, keepdim=True)
    if kgrad == "detached":
        k = k.detach()
    return torch.einsum("ne,nec->nc", g / k.clamp(min=1), out)

def row_losses(W, m):
    # W (E, C), m (E) -> (diversity, simplicity), not weighted
    V = unit(W[m > 0])
    A = V @ V.T
    off = A[~torch.eye(len(A), dtype=torch.bool)]       # the diagonal is |v|^2 - 1 = 0
    zero = W.new_zeros(())
    # eq. (7), first term: |V V^T - I| in the Frobenius norm, not squared. At 0 its gradient is 0.
    diversity = off.norm() if len(off) and off.abs().max() > 0 else zero
    # eq. (7), second term: mean length of the existing rows
    simplicity = W[m > 0].norm(dim=1).mean() if m.sum() > 0 else zero
    return diversity, simplicity

def aux_losses(W, m, g):
    # W (E, C), m (E), g (N, E) -> (diversity, simplicity, load balance, efficiency), not weighted
    diversity, simplicity = row_losses(W, m)
    # the two terms of the authors' later code
    E, k = len(m), g.sum(-1, keepdim=True)
    routed = k[:, 0] > 0
    balance = W.new_zeros(())
    if routed.any():
        me = (g / k.clamp(min=1))[routed].mean(0)       # share of the weight, differentiable
        ce = g[routed].mean(0).detach()                 # share of the tokens, a constant
        balance = E * (me * ce).sum()
    efficiency = g.sum() / g.numel()
    return torch.stack([diversity, simplicity, balance, efficiency])

def margin(c, G, m, k, training):
    # how far the closest decision is from flipping
    c = c[:, m > 0]
    if c.numel() == 0:
        return math.inf
    near = (c - G[m > 0]).abs().min().item()
    if not training and c.shape[1] > 1 and (k == 0).any():
        top = c[k == 0].topk(2, -1)[0]
        near = min(near, (top[:, 0] - top[:, 1]).min().item())
    return near

# ----------------------------------------------------------------------------
# the routers DynMoE is compared with: top-k, top-p and dense, all of them a softmax over the active experts

def softmax_gate(x, W, m, cfg):
    # x (N, C), W (E, C), m (E) -> probabilities p, choice S in {0, 1}, weights w, all (N, E), and the margin
    #   top-k  the K largest p (K is cut to the active experts)    w = p (K = 1: Switch), p / sum_S p (K > 1: GShard)
    #   top-p  the largest p until their sum is >= P, at least one          w = p
    #   dense  all active experts                                           w = p
    # The choice is a constant, the weights have their true gradient. Training and evaluation are the same.
    z = (x @ W.T).masked_fill(m == 0, -math.inf)
    p = torch.softmax(z, -1)
    Ea = int(m.sum())
    order = z.detach().sort(dim=-1, descending=True, stable=True)[1]    # ties: the lower index first; inactive ones last
    largest = p.detach().gather(-1, order)
    undecided = largest.cumsum(-1)[:, :Ea - 1] - cfg.topp               # after all Ea experts there is no choice left
    if cfg.router == "top-p":
        k = 1 + (undecided < 0).sum(-1, keepdim=True)
    else:
        k = torch.full((len(x), 1), min(cfg.topk, Ea) if cfg.router == "top-k" else Ea)
    S = torch.zeros_like(p).scatter(-1, order, (torch.arange(len(m)) < k).to(p.dtype))
    w = p * S
    if cfg.router == "top-k" and cfg.topk > 1:
        w = w / w.sum(-1, keepdim=True)
    # how far the closest decision is from flipping: the last chosen against the first not chosen, in z for top-k, in p for
    # top-p, where also each sum keeps its distance from P
    v, some = z.detach().gather(-1, order) if cfg.router == "top-k" else largest, k[:, 0] < Ea
    gap = v[some].gather(-1, k[some] - 1) - v[some].gather(-1, k[some])
    near = torch.cat([gap.flatten(), undecided.abs().flatten()] if cfg.router == "top-p" else [gap.flatten()])
    return p, S, w, near.min().item() if len(near) else math.inf

def softmax_losses(W, m, p, S, cfg):
    # p, S (N, E) -> (diversity, simplicity, load balance, efficiency, entropy), not weighted
    diversity, simplicity = row_losses(W, m)
    Ea = int(m.sum())
    n = {"top-k": min(cfg.topk, Ea), "top-p": 1, "dense": Ea}[cfg.router]
    balance = Ea * (S.mean(0) * p.mean(0)).sum() / n    # share of the tokens, a constant, times mean probability
    efficiency = S.sum() / S.numel()                    # mean k / E, a constant
    q = p[p > 0]                                        # 0 log 0 = 0
    entropy = -(q * q.log()).sum() / len(p)             # the dynamic loss of top-p: a sharp p needs few experts
    return torch.stack([diversity, simplicity, balance, efficiency, entropy])

# ----------------------------------------------------------------------------
# the layer: a router, the experts it chooses, and the shared experts, which see every token

def moe(x, P, h, m, cfg, training):
    # x (N, C) -> y (N, C) and what an observer wants to see
    W, w = P[h + "moe.gatew"], None
    if cfg.router == "top-any":
        c, g = gate(x, W, P[h + "moe.gateG"], m, cfg.scale)
        k, s = g.detach().sum(-1), cfg.scale * c
        near = margin(c.detach(), P[h + "moe.gateG"].detach(), m, k, training)
        terms = aux_losses(W, m, g)
        if not training:
            g = top1_fallback(c, g, m)
    else:
        s, g, w, near = softmax_gate(x, W, m, cfg)
        k = g.sum(-1)
        terms = softmax_losses(W, m, s, g, cfg)
    aux = (terms * torch.tensor(cfg.aux[:len(terms)], dtype=x.dtype)).sum()     # top-any has no entropy
    inside = ("lnw", "lnb") if cfg.gate_input == "residual" else ()
    out = experts(x, *[P[h + "moe." + n] for n in ("fcw", "fcb", "fcprojw", "fcprojb") + inside])
    routed = combine(g, out, cfg.kgrad) if w is None else torch.einsum("ne,nec->nc", w, out)
    # shared experts of width H, side by side: one feed-forward layer of width shared * H
    y = routed + mlp(x, P, h + "shared.") if cfg.shared else routed
    size = routed.norm(dim=-1) if w is None else (w * out.norm(dim=-1)).sum(-1)      # for gate_terms
    return y, SimpleNamespace(moe_in=x, moe_out=y, s=s.detach(), act=g.detach(), k=k, w=w, aux=aux, margin=near,
                              size=size.detach())

# ----------------------------------------------------------------------------
# the models

def embed(P, cfg, x):
    # x (B, T) tokens, or (B, channels, image, image) -> residual stream (B, T, C)
    if cfg.model == "gpt2":
        return P["wte"][x] + P["wpe"][:x.shape[1]]
    r = patches(x, cfg.patch) @ P["patchw"].T + P["patchb"]
    return torch.cat([P["cls"].expand(len(x), 1, cfg.C), r], 1) + P["wpe"]

def head(P, cfg, r):
    # r (B, T, C) after the last LayerNorm -> logits
    if cfg.model == "gpt2":
        return r.reshape(-1, cfg.C) @ P["wte"][:cfg.V].T            # (B*T, V): tied head, padding rows left out
    return r[:, 0] @ P["headw"].T + P["headb"]                      # (B, classes): the class token alone

def forward(P, mask, cfg, x, y=None, training=True):
    # P {name: tensor}, mask {layer: (E)}, x (B, T) tokens, y (B, T) targets; of a ViT x images, y (B) classes
    r = embed(P, cfg, x)                                            # residual stream (B, T, C)
    B, T, C = r.shape
    layers = {}
    for l in range(cfg.L):
        h = "h.%d." % l
        r = r + attention(layernorm(r, P[h + "ln1w"], P[h + "ln1b"]), P, h, cfg.NH, causal=cfg.model == "gpt2")
        # gate_input = residual: gate and experts read r itself, there is no ln2 in a MoE layer. The reshape is a node of
        # its own, so that dmoe_in is what comes back from the layer, without the path around it.
        raw = l in cfg.moe_layers and cfg.gate_input == "residual"
        u = (r if raw else layernorm(r, P[h + "ln2w"], P[h + "ln2b"])).reshape(B * T, C)
        if l in cfg.moe_layers:
            z, layers[l] = moe(u, P, h, mask[l], cfg, training)
        else:
            z = mlp(u, P, h)
        r = r + z.reshape(B, T, C)
    logits = head(P, cfg, layernorm(r, P["lnfw"], P["lnfb"]))
    o = SimpleNamespace(logits=logits, layers=layers, margin=min([i.margin for i in layers.values()] + [1e9]))
    if y is not None:
        o.ce = F.cross_entropy(logits, y.reshape(-1))
        o.aux = sum([i.aux for i in layers.values()], logits.new_zeros(()))
        o.loss = o.ce + cfg.aux_weight * o.aux
    return o

# ----------------------------------------------------------------------------
# optimizer and adaptive process

def live_rows(name, P, mask):
    # which elements the optimizer may touch: all, or the active slots of a pool
    if ".moe." not in name:
        return torch.ones((), dtype=torch.bool)
    m = mask[int(name.split(".")[1])] > 0
    return m.reshape([-1] + [1] * (P[name].dim() - 1))

def adamw(P, M, S, grads, mask, cfg, step):
    # in place; M, S are the moments m, v. t = step + 1 for every tensor and slot, new slots included.
    # An active expert without rows is stepped with gradient 0; an inactive slot is left alone.
    t = step + 1
    for n, g in grads.items():
        live = live_rows(n, P, mask)
        m = cfg.beta1 * M[n] + (1 - cfg.beta1) * g
        v = cfg.beta2 * S[n] + (1 - cfg.beta2) * g * g
        mhat, vhat = m / (1 - cfg.beta1 ** t), v / (1 - cfg.beta2 ** t)
        p = P[n] - cfg.lr * (mhat / (vhat.sqrt() + cfg.eps) + cfg.wd * cfg.decay[n] * P[n])
        P[n], M[n], S[n] = torch.where(live, p, P[n]), torch.where(live, m, M[n]), torch.where(live, v, S[n])

def record(rec, i):
    # one training forward of the window: R_E tokens per expert, R_S sum of the unrouted x, not normalised
    rec.RE = rec.RE + i.act.sum(0)
    rec.RS = rec.RS + i.moe_in.detach()[i.k == 0].sum(0)
    rec.unrouted += int((i.k == 0).sum())

def adapt(P, M, S, mask, l, rec):
    # Algorithm 1: remove what no token used, then add at most one expert in the direction of R_S.
    # The count decides, not R_S itself: a sum of LayerNorm outputs can be near zero.
    m = mask[l].clone()
    m[rec.RE == 0] = 0
    free = (m == 0).nonzero().flatten().tolist()
    added = None
    if rec.unrouted > 0 and free and rec.RS.norm() > 0:
        added = free[0]                          # may be a slot that was freed one line above
        m[added] = 1
        h = "h.%d.moe." % l
        P[h + "gatew"][added] = rec.RS / rec.RS.norm()
        P[h + "gateG"][added] = 0
        for n in P:
            if n.startswith(h):                  # gate, feed-forward layer, LayerNorm
                M[n][added] = 0                  # stale moments would push the new expert around;
                S[n][added] = 0                  # its weights stay as they are
    mask[l] = m
    return added

def backward(P, o):
    # gradients of every parameter, and dmoe_out, dmoe_in of every MoE layer
    names, infos = list(P), list(o.layers.values())
    wanted = [P[n] for n in names] + [i.moe_out for i in infos] + [i.moe_in for i in infos]
    gs = torch.autograd.grad(o.loss, wanted, allow_unused=True)
    gs = [torch.zeros_like(w) if g is None else g for g, w in zip(gs, wanted)]
    for j, i in enumerate(infos):
        i.dmoe_out, i.dmoe_in = gs[len(names) + j], gs[len(names) + len(infos) + j]
    return dict(zip(names, gs))

def train(P, M, S, mask, cfg, X, Y):
    # X, Y (n_steps, ...), a batch each. Returns the observations of each step; P, M, S, mask end up trained.
    rec = {l: SimpleNamespace(RE=0, RS=0, unrouted=0) for l in cfg.moe_layers}
    steps = []
    for t in range(cfg.n_steps):
        leaves = {n: p.detach().clone().requires_grad_(True) for n, p in P.items()}
        o = forward(leaves, mask, cfg, X[t], Y[t], training=True)
        o.grads = backward(leaves, o)
        o.mask, o.added = dict(mask), {}
        adamw(P, M, S, o.grads, mask, cfg, t)
        o.M, o.S = [{n: a.clone() for n, a in D.items()} for D in (M, S)]
        for l in cfg.moe_layers:
            if cfg.win_begin <= t <= cfg.win_end:
                record(rec[l], o.layers[l])
            if t == cfg.win_end:
                o.added[l] = adapt(P, M, S, mask, l, rec[l])
        steps.append(o)
    return steps, rec

# ----------------------------------------------------------------------------
# a fixture: configuration and start in, every expected tensor out

SIZES = dict(gpt2="T V Vp".split(), vit="image channels patch classes".split())
INTS = "L NH C E".split()
RUN = "B n_steps win_begin win_end".split()
FLOATS = "lr beta1 beta2 eps wd aux_weight scale".split()
OPTIONAL = "router topk topp shared H model gate_input".split()
ROUTERS = ("top-any", "top-k", "top-p", "dense")

def parse_config(meta, path, run=RUN, floats=FLOATS):
    model = meta.get("model", "gpt2")
    if model not in SIZES:
        raise UserError("%s: model %s is unknown here" % (path, model), "gpt2 or vit")
    ints = SIZES[model] + INTS + run
    try:
        cfg = SimpleNamespace(model=model, **{k: int(meta[k]) for k in ints}, **{k: float(meta[k]) for k in floats})
        cfg.moe_layers = [int(l) for l in meta["moe_layers"].split(",") if l]
        cfg.aux = [float(w) for w in meta.get("aux", "1,1,0,0").split(",")]
        cfg.router, cfg.topp = meta.get("router", "top-any"), float(meta.get("topp", 0.4))
        cfg.topk, cfg.shared, cfg.H = int(meta.get("topk", 1)), int(meta.get("shared", 0)), int(meta.get("H", 4 * cfg.C))
    except (KeyError, ValueError) as e:
        raise UserError("%s: metadata is missing or malformed: %s" % (path, e), "docs/formats.md lists the keys")
    cfg.kgrad, cfg.gate_input = meta.get("kgrad", "normalised"), meta.get("gate_input", "ln2")
    cfg.decay = {k[6:]: float(v == "1") for k, v in meta.items() if k.startswith("decay/")}
    if (min([1] + [getattr(cfg, k) for k in ints if k not in ("E", "win_begin", "win_end")]) < 1 or cfg.C % cfg.NH
            or bool(cfg.moe_layers) != (cfg.E > 0) or len(cfg.aux) not in (4, 5)
            or (run and not cfg.win_begin == cfg.win_end == -1      # -1: nothing is recorded, the pool stays
                and (cfg.router != "top-any" or not 0 <= cfg.win_begin <= cfg.win_end < cfg.n_steps))
            or cfg.router not in ROUTERS or min(cfg.topk, cfg.H, cfg.shared + 1) < 1 or not 0 < cfg.topp <= 1
            or any(l not in range(cfg.L) for l in cfg.moe_layers) or cfg.kgrad not in ("normalised", "detached")
            or (cfg.Vp < cfg.V or cfg.gate_input != "ln2" if model == "gpt2" else
                # shared experts have no LayerNorm of their own, so they need ln2
                cfg.image % cfg.patch or cfg.gate_input not in ("ln2", "residual")
                or (cfg.gate_input == "residual" and cfg.shared))):
        raise UserError("%s: the metadata describes no model" % path, "compare it with docs/formats.md")
    if model == "vit":
        cfg.T, cfg.V, cfg.patch_size = 1 + (cfg.image // cfg.patch) ** 2, cfg.classes, cfg.channels * cfg.patch ** 2
    cfg.aux += [0.0] * (5 - len(cfg.aux))
    return cfg

def parameter_shapes(cfg):
    # name -> shape, in the order of the forward pass; masks are not parameters
    C, H, E = cfg.C, cfg.H, cfg.E

    def ffn(h, width):
        return {h + "fcw": (width, C), h + "fcb": (width,), h + "fcprojw": (C, width), h + "fcprojb": (C,)}

    if cfg.model == "gpt2":
        s = {"wte": (cfg.Vp, C), "wpe": (cfg.T, C)}
    else:
        s = {"patchw": (C, cfg.patch_size), "patchb": (C,), "cls": (C,), "wpe": (cfg.T, C)}
    for l in range(cfg.L):
        h = "h.%d." % l
        s.update({h + "ln1w": (C,), h + "ln1b": (C,), h + "qkvw": (3 * C, C), h + "qkvb": (3 * C,),
                  h + "attprojw": (C, C), h + "attprojb": (C,)})
        inside = l in cfg.moe_layers and cfg.gate_input == "residual"   # the LayerNorm is inside each expert
        s.update({} if inside else {h + "ln2w": (C,), h + "ln2b": (C,)})
        if l in cfg.moe_layers:
            s.update({h + "moe.gatew": (E, C), h + "moe.gateG": (E,)})
            s.update({h + "moe.lnw": (E, C), h + "moe.lnb": (E, C)} if inside else {})
            s.update({h + "moe.fcw": (E, H, C), h + "moe.fcb": (E, H), h + "moe.fcprojw": (E, C, H),
                      h + "moe.fcprojb": (E, C)})
            s.update(ffn(h + "shared.", cfg.shared * H) if cfg.shared else {})
        else:
            s.update(ffn(h, 4 * C))
    s.update({"lnfw": (C,), "lnfb": (C,)})
    s.update({"headw": (cfg.classes, C), "headb": (cfg.classes,)} if cfg.model == "vit" else {})
    return s

def take(tensors, prefix, shapes, path, dtype, optional=False):
    # shapes {name: shape} -> {name: tensor} out of a file; what is optional and absent is zero
    P = {}
    for n, shape in shapes.items():
        a = tensors.get(prefix + n, np.zeros(shape) if optional else None)
        if a is None or a.shape != shape:
            raise UserError("%s: tensor %s is %s, expected %s" % (path, prefix + n, "missing" if a is None else a.shape, shape),
                            "do the metadata and the tensors belong to the same model?")
        P[n] = torch.tensor(np.array(a), dtype=dtype)
    return P

def take_masks(tensors, prefix, cfg, path, dtype):
    masks = take(tensors, prefix, {"h.%d.moe.mask" % l: (cfg.E,) for l in cfg.moe_layers}, path, dtype)
    if cfg.router != "top-any" and any(m.sum() == 0 for m in masks.values()):
        raise UserError("%s: a layer without an active expert" % path, "only top-any works without one")
    return dict(zip(cfg.moe_layers, masks.values()))

def run_fixture(tensors, cfg, path, dtype=torch.float64):
    """-> expected tensors {FULLNAME: tensor}, and the steps for those who set tolerances"""
    shapes, vit = parameter_shapes(cfg), cfg.model == "vit"
    P = take(tensors, "param/", shapes, path, dtype)
    M = take(tensors, "param_m/", shapes, path, dtype, optional=True)
    S = take(tensors, "param_v/", shapes, path, dtype, optional=True)
    mask = take_masks(tensors, "param/", cfg, path, dtype)
    batches = (cfg.n_steps, cfg.B)
    X = take(tensors, "data/", {"x": batches + ((cfg.channels, cfg.image, cfg.image) if vit else (cfg.T,))}, path,
             dtype if vit else torch.int64)["x"]
    Y = take(tensors, "data/", {"y": batches + (() if vit else (cfg.T,))}, path, torch.int64)["y"]
    ids = Y.flatten() if vit else torch.cat([X.flatten(), Y.flatten()])
    if ids.min() < 0 or ids.max() >= cfg.V or not torch.isfinite(X).all() or set(shapes) - set(cfg.decay):
        raise UserError("%s: a token or class out of range, or a decay/NAME is missing in the metadata" % path,
                        "is this a whole fixture?")
    R, margins = {}, []

    def evaluate(group):
        o = forward(P, mask, cfg, X[0], Y[0], training=False)
        R[group + "/ce"], R[group + "/logits"] = o.ce, o.logits
        for l, i in o.layers.items():
            R["%s/h.%d.act" % (group, l)], R["%s/h.%d.k" % (group, l)] = i.act, i.k
        margins.append(o.margin)

    evaluate("eval")
    steps, rec = train(P, M, S, mask, cfg, X, Y)
    margins += [o.margin for o in steps]
    o = steps[0]
    R.update({"exp/loss": o.loss, "exp/ce": o.ce, "exp/aux": o.aux, "exp/logits": o.logits})
    R.update({"grad/" + n: g for n, g in o.grads.items()})
    R.update({"traj/" + n: torch.stack([getattr(s, n) for s in steps]) for n in ("loss", "ce", "aux")})
    for l in cfg.moe_layers:
        h = "h.%d." % l
        for n in ("moe_in", "moe_out", "dmoe_out", "dmoe_in", "s", "act", "k", "aux"):
            R["exp/" + h + n] = getattr(o.layers[l], n)
        if cfg.router != "top-any":
            R["exp/" + h + "w"] = o.layers[l].w
        if cfg.win_end >= 0:
            R["exp/" + h + "RE"], R["exp/" + h + "RS"] = rec[l].RE, rec[l].RS
        R["traj/" + h + "kmean"] = torch.stack([s.layers[l].k.mean() for s in steps])
        R["traj/" + h + "count"] = torch.stack([s.layers[l].act.sum(0) for s in steps])
        R["traj/" + h + "mask"] = torch.stack([s.mask[l] for s in steps] + [mask[l]])
        R["post/" + h + "moe.mask"] = mask[l]
    for group, D in (("post/", P), ("post_m/", M), ("post_v/", S)):
        R.update({group + n: t for n, t in D.items()})
    evaluate("posteval")
    R = {n: t.detach() for n, t in R.items()}
    return R, SimpleNamespace(steps=steps, rec=rec, P=P, mask=mask, X=X, Y=Y, margin=min(margins))

# ----------------------------------------------------------------------------
# tolerances: what a correct float32 program may differ by
#
# r = SAFETY sqrt(K) eps32, K the longest sum in the model: rounding errors of K terms add up like
# a random walk. With no other free constant:
#   values, gradients      atol = r max|want|, rtol = r. The maximum is the typical size of the terms
#                          that are summed. Where it is not: cosines, probabilities and weights 1, aux at
#                          least 1, gate gradients at least their terms <dy, y>, which cancel (see gate_terms)
#   Adam moments           errors dg = r max|g| of the gradients, put through the recurrences of m and v
#   parameters             first order of the Adam step, element by element:
#                          dp += lr (dmhat / (sqrt(vhat) + eps) + |mhat| dsqrt / (sqrt(vhat) + eps)^2),
#                          but at most 2 lr a step: where a gradient is zero but for rounding (the key
#                          bias), Adam turns noise into full steps
#   losses of later steps  + |gradient * dp|, what the parameter errors do to the loss
#   logits after training  + what moving every parameter by +-dp does to them (measured)
# A gradient that is exactly zero (padding rows, unused experts) is zero in float32 too: dg = 0.

EPS32 = 2.0 ** -23
SAFETY = 6.0

def gate_terms(n, o, cfg):
    # the size of what is summed up in the gradient of gatew or gateG, by Cauchy-Schwarz; else 0
    if not n.endswith(("gatew", "gateG")):
        return 0.0
    i = o.layers[int(n.split(".")[1])]
    terms = ((i.dmoe_out ** 2).sum(-1) * i.size ** 2).sum().sqrt().item()
    if cfg.router == "top-any":
        return cfg.scale / 4 * terms             # the slope of the sigmoid; x and W enter as directions
    # softmax: dz_e = p_e (dp_e - sum_j p_j dp_j) and, if normalised, dp_e = (<dy, out_e> - sum_j w_j <dy, out_j>) / sum_S p.
    # Every term that cancels there is at most |dy| sum_e w_e |out_e| (size: what is summed up in y, not y). dW_e = sum_n dz x,
    # and x is not a direction but what the gate reads. G is not used: its gradient is 0, with no error.
    return terms * i.moe_in.detach().abs().max().item() if n.endswith("gatew") else 0.0

def adam_errors(run, cfg, r, dRS):
    # -> dm, dv, dp {name: tensor}, the errors that dg = r max|g| causes in n_steps
    zeros = {n: torch.zeros_like(p) for n, p in run.P.items()}
    dm, dv, dp = dict(zeros), dict(zeros), dict(zeros)
    for t, o in enumerate(run.steps):
        for n, g in o.grads.items():
            live = live_rows(n, run.P, o.mask)
            dg = r * max(g.abs().max().item(), gate_terms(n, o, cfg)) * (g != 0)
            dm[n] = torch.where(live, cfg.beta1 * dm[n] + (1 - cfg.beta1) * dg, dm[n])
            dv[n] = torch.where(live, cfg.beta2 * dv[n] + (1 - cfg.beta2) * 2 * g.abs() * dg, dv[n])
            b1t, b2t = 1 - cfg.beta1 ** (t + 1), 1 - cfg.beta2 ** (t + 1)
            root = (o.S[n] / b2t).sqrt()
            mhat, dsqrt = o.M[n].abs() / b1t, dv[n] / b2t / (2 * root).clamp(min=1e-30)
            dp_t = (dm[n] / b1t + mhat * dsqrt / (root + cfg.eps)) / (root + cfg.eps)
            dp_t = cfg.lr * dp_t.clamp(max=2) + EPS32 * run.P[n].abs()
            dp[n] = dp[n] + dp_t * live
        for l, e in o.added.items():
            if e is not None:                    # a new row is R_S / |R_S|
                dp["h.%d.moe.gatew" % l][e] = dRS[l] / run.rec[l].RS.norm()
                for n in parameter_shapes(cfg):
                    if n.startswith("h.%d.moe." % l):
                        dm[n][e], dv[n][e] = 0, 0
    return dm, dv, dp

EXACT = ("act", "k", "mask", "count", "RE")     # whole numbers: a fixture keeps its distance from ties

def tolerances(R, run, cfg):
    # -> atol {FULLNAME: number or, for some of post/, an array}, and the one rtol
    longest = max(4 * cfg.C, cfg.H, cfg.shared * cfg.H, cfg.B * cfg.T, cfg.V, cfg.patch_size if cfg.model == "vit" else 0)
    r = SAFETY * math.sqrt(longest) * EPS32
    size = {n: t.abs().max().item() for n, t in R.items() if t.numel()}
    dRS = {l: r * size.get("exp/h.%d.RS" % l, 0.0) for l in cfg.moe_layers}
    dm, dv, dp = adam_errors(run, cfg, r, dRS)
    dloss = math.sqrt(sum(((run.steps[0].grads[n] * dp[n]) ** 2).sum().item() for n in dp))
    rng = np.random.RandomState(0)
    moved = {n: p + dp[n] * torch.tensor(np.sign(rng.randn(*p.shape))) for n, p in run.P.items()}
    o = forward(moved, run.mask, cfg, run.X[0], training=False)
    dlogits = (o.logits - R["posteval/logits"]).abs().max().item()
    for l, i in o.layers.items():                # no decision may hang on such an error
        assert torch.equal(i.act, R["posteval/h.%d.act" % l]), "an error within tolerance flips a gate"

    adam = {"post": dp, "post_m": dm, "post_v": dv}
    later = {"traj/loss": dloss, "traj/ce": dloss, "posteval/ce": dloss, "posteval/logits": 2 * dlogits}
    atol = {}
    for full in R:
        group, n = full.split("/", 1)
        last = n.split(".")[-1]
        if last in EXACT:
            continue
        if group in adam:
            # one number if the worst element is far below a step; else, in post, one for each element
            a = adam[group][n]
            atol[full] = a if group == "post" and a.max() >= cfg.lr / 50 else a.max().item()
        else:
            floor = {"s": cfg.scale, "w": 1.0, "aux": 1.0}.get(last, gate_terms(n, run.steps[0], cfg) if group == "grad" else 0.0)
            atol[full] = r * max(size[full], floor) + later.get(full, 0.0)
    return atol, r

# ----------------------------------------------------------------------------
# the project's own fixtures: small models, each with its events

BASE = dict(T=8, V=19, Vp=32, L=2, NH=2, C=8, B=3, n_steps=6, win_begin=1, win_end=3, lr=1e-3, beta1=0.9,
            beta2=0.95, eps=1e-8, wd=0.1, aux_weight=0.01, aux="1,1,0,0", scale=1.0, kgrad="normalised")
HIGH = 2.0  # a threshold that no cosine reaches

# Of the routers and of shared experts: as small as they can be. G is no part of a softmax router, so it is not 0 here.
SMALL = dict(T=5, V=16, Vp=16, L=1, B=2, n_steps=3, win_begin=-1, win_end=-1, moe=[0], small=True)

# mask, G: the start, for each MoE layer. then: the mask after training, which shows the events. ks: numbers of
# experts per token that must occur in step 0, in the first MoE layer.
CASES = [
    dict(name="normalised", seed=901, moe=[1], E=5,               # removes 4, adds 2
         mask=[[1, 1, 0, 1, 1]], G=[[0, .1, 0, .2, HIGH]], then=[[1, 1, 1, 1, 0]]),
    dict(name="detached", seed=3702, moe=[0], E=4, L=1, kgrad="detached", aux="1,1,1,1",  # removes 0, adds it again
         mask=[[1, 1, 1, 0]], G=[[HIGH, 0, .1, 0]], then=[[1, 1, 1, 0]]),
    dict(name="scale", seed=3303, moe=[0, 1], E=3, scale=4.0, T=7, V=17, Vp=17, NH=1, aux="1,0,0,1",
         mask=[[1, 1, 0], [1, 0, 1]], G=[[0, .2, 0], [0, 0, .2]], then=[[1, 1, 1], [1, 1, 1]]),
    dict(name="dense", seed=2304, moe=[], E=0, L=1, C=12, NH=3, Vp=19, mask=[], G=[], then=[]),
    dict(name="single", seed=2605, moe=[0], E=1, L=1, kgrad="detached", aux="1,1,1,1",
         mask=[[1]], G=[[0]], then=[[1]]),
    dict(name="allzero", seed=606, moe=[0], E=3, L=1,             # all go, the lowest free slot comes
         mask=[[0, 1, 1]], G=[[0, HIGH, HIGH]], then=[[1, 0, 0]]),
    dict(name="full", seed=1607, moe=[0], E=3, L=1,                # unrouted tokens, but no room
         mask=[[1, 1, 1]], G=[[.2, .2, .2]], then=[[1, 1, 1]]),
    dict(name="moments", seed=100, moe=[0], E=5, moments=True, once=True,
         mask=[[1, 0, 1, 1, 0]], G=[[-.602, 0, .637, .35, 0]], then=[[1, 1, 1, 1, 0]]),
    dict(SMALL, name="switch", seed=4307, E=4, H=5, router="top-k", topk=1, aux="0,0,1,0,0.5",
         mask=[[1, 1, 1, 1]], G=[[.1, -.2, .3, HIGH]], then=[[1, 1, 1, 1]], ks={1}),
    dict(SMALL, name="topk", seed=4490, C=4, L=3, moe=[0, 2], E=4, H=6, shared=1, router="top-k", topk=2, aux="1,0.5,1,1,0.5",
         T=4, mask=[[1, 1, 0, 1], [0, 0, 1, 0]], G=[[.1, -.2, .3, HIGH]] * 2, then=[[1, 1, 0, 1], [0, 0, 1, 0]], ks={2}),
    dict(SMALL, name="topp", seed=4364, E=4, H=6, router="top-p", topp=0.6, aux="0,0,1,0,1",
         mask=[[1, 1, 1, 1]], G=[[.1, -.2, .3, HIGH]], then=[[1, 1, 1, 1]], ks={1, 2, 3}),
    dict(SMALL, name="mixture", seed=4308, E=3, H=6, router="dense", aux="0,1,1,0,0.5",
         mask=[[1, 1, 1]], G=[[.1, -.2, HIGH]], then=[[1, 1, 1]], ks={3}),
    dict(SMALL, name="shared", seed=4379, E=3, H=10, shared=2, n_steps=4, win_begin=1, win_end=2,
         mask=[[1, 1, 0]], G=[[0, .2, 0]], then=[[1, 1, 1]], ks={0, 1, 2}),
]

# ViT. In the last layer only the class token matters to the loss, so a DynMoE layer stands below another layer.
# cls: in step 0 the class token of one image must be unrouted, that of another one routed.
VIT = dict(model="vit", gate_input="ln2", image=4, channels=3, patch=2, classes=5, L=2, moe=[0], C=4, H=6)
LITTLE = dict(VIT, n_steps=4, win_begin=1, win_end=2, small=True)
VIT_CASES = [
    dict(VIT, name="basic", seed=5290, image=6, B=2, C=6, E=4, cls=True,                     # removes 3, adds 1
         mask=[[1, 0, 1, 1]], G=[[0, 0, .2, HIGH]], then=[[1, 1, 1, 0]], ks={0, 1, 2}),
    dict(VIT, name="residual", seed=5361, gate_input="residual", moe=[0, 1], E=4, kgrad="detached", aux="1,1,1,1", cls=True,
         mask=[[1, 1, 1, 0]] * 2, G=[[HIGH, 0, .1, 0], [0, HIGH, 0, 0]],                     # removes 0 and adds it again; in
         then=[[1, 1, 1, 0], [1, 1, 1, 0]], ks={0, 1, 2}),                                   # layer 1 the same with 1
    dict(VIT, name="moments", seed=6486, gate_input="residual", E=5, moments=True, once=True,
         mask=[[1, 0, 1, 1, 0]], G=[[-.799, 0, .864, .243, 0]], then=[[1, 1, 1, 1, 0]]),
    dict(LITTLE, name="odd", seed=5082, gate_input="residual", image=12, channels=1, patch=3, classes=7, C=5, NH=1, E=3, H=7,
         B=2, scale=4.0, aux="1,0,0,1", cls=True, mask=[[1, 1, 0]], G=[[0, .2, 0]], then=[[1, 1, 1]], ks={0, 1, 2}),
    dict(LITTLE, name="dense", seed=5001, C=6, NH=3, E=0, moe=[], mask=[], G=[], then=[]),
    dict(LITTLE, name="allzero", seed=5032, gate_input="residual", E=3,                      # all go, the lowest free slot comes
         mask=[[0, 1, 1]], G=[[0, HIGH, HIGH]], then=[[1, 0, 0]], ks={0}),
    dict(LITTLE, name="full", seed=5058, channels=1, patch=4, B=5, E=3, kgrad="detached",    # one patch; no room
         mask=[[1, 1, 1]], G=[[.2, .2, .2]], then=[[1, 1, 1]], ks={0, 1, 2}),
    dict(LITTLE, name="topk", seed=5054, gate_input="residual", moe=[0, 1], E=4, router="top-k", topk=2, aux="1,0.5,1,1,0.5",
         win_begin=-1, win_end=-1, mask=[[1, 1, 0, 1], [0, 0, 1, 0]], G=[[.1, -.2, .3, HIGH]] * 2,
         then=[[1, 1, 0, 1], [0, 0, 1, 0]], ks={2}),
    dict(LITTLE, name="shared", seed=5051, E=3, H=5, shared=2,                               # removes 0, adds it again
         mask=[[1, 1, 1]], G=[[HIGH, 0, .2]], then=[[1, 1, 1]], ks={0, 1, 2}),
    dict(LITTLE, name="blocks", seed=1, gate_input="residual", image=18, channels=1, B=2, E=3,   # 82 tokens: attention in blocks
         mask=[[1, 1, 0]], G=[[0, .2, 0]], then=[[1, 1, 1]], ks={0, 1, 2}),
]

def random_start(case, cfg, rng):
    # -> the param/, param_m/, param_v/ and data/ tensors of a case
    t = {}
    for n, shape in parameter_shapes(cfg).items():
        last = n.split(".")[-1]
        std = {"wte": .3, "wpe": .1, "gatew": .4, "qkvw": .3, "fcw": .3, "attprojw": .2, "fcprojw": .2,
               "patchw": .3, "cls": .3, "headw": .3}.get(last, .1)
        a = std * rng.randn(*shape) + (last in ("ln1w", "ln2w", "lnfw", "lnw"))
        if last == "wte":
            a[cfg.V:] = 0
        t["param/" + n] = a.astype(np.float32)
        if case.get("moments"):
            m, v = .01 * rng.randn(*shape), 1e-4 * (0.5 + rng.rand(*shape))
            if last == "wte":
                m[cfg.V:], v[cfg.V:] = 0, 0
            t["param_m/" + n], t["param_v/" + n] = m.astype(np.float32), v.astype(np.float32)
    for l, mask, G in zip(cfg.moe_layers, case["mask"], case["G"]):
        t["param/h.%d.moe.mask" % l] = np.array(mask, np.int32)
        t["param/h.%d.moe.gateG" % l] = np.array(G, np.float32)
    batches = (cfg.n_steps, cfg.B)
    if cfg.model == "vit":
        t["data/x"] = rng.randn(*batches, cfg.channels, cfg.image, cfg.image).astype(np.float32)
        t["data/y"] = rng.randint(0, cfg.classes, batches).astype(np.int32)
    else:
        text = rng.randint(0, cfg.V, batches + (cfg.T + 1,)).astype(np.int32)
        t["data/x"], t["data/y"] = text[:, :, :-1], text[:, :, 1:]
    return t

def make_case(case):
    # -> tensors, metadata of one fixture; asserts that the events it is made for do happen
    c = dict(BASE, **case)
    meta = {k: str(c[k]) for k in SIZES[c.get("model", "gpt2")] + INTS + RUN}
    meta.update({k: repr(float(np.float32(c[k]))) for k in FLOATS})     # what a C float holds
    meta.update({k: repr(float(np.float32(c[k]))) if k == "topp" else str(c[k]) for k in OPTIONAL if k in c})
    meta.update(format="dynmoe-fixture 1", policy="skip", decay="2d", aux=c["aux"], kgrad=c["kgrad"],
                moe_layers=",".join(str(l) for l in c["moe"]))
    cfg = parse_config(meta, c["name"])
    for n in parameter_shapes(cfg):              # matrices and embeddings decay; biases, norms, gates do not
        cfg.decay[n] = float(n.split(".")[-1] in ("wte", "wpe", "qkvw", "attprojw", "fcw", "fcprojw", "patchw", "cls", "headw"))
        meta["decay/" + n] = "%d" % cfg.decay[n]
    tensors = random_start(c, cfg, np.random.RandomState(c["seed"]))
    R, run = run_fixture(tensors, cfg, c["name"])
    meta["margin"] = repr(run.margin)

    assert run.margin > 5e-5, "%s: margin %g, take another seed" % (c["name"], run.margin)
    assert [run.mask[l].int().tolist() for l in cfg.moe_layers] == c["then"], c["name"]
    if c.get("once"):
        # expert 2: one token in the window, in step 2; one unrouted token, in step 1; nothing in step 3
        assert run.rec[0].RE[2] == 1 and run.steps[2].layers[0].act[:, 2].sum() == 1
        assert run.rec[0].unrouted == 1 and (run.steps[1].layers[0].k == 0).sum() == 1
    if c.get("cls"):
        k = run.steps[0].layers[c["moe"][0]].k.reshape(cfg.B, cfg.T)[:, 0]
        assert (k == 0).any() and (k > 0).any(), c["name"]

    assert c.get("ks", set()) <= set(run.steps[0].layers[c["moe"][0]].k.int().tolist() if c["moe"] else []), c["name"]
    atol, r = tolerances(R, run, cfg)
    if c.get("small"):                           # AdamW on the other tensors is seen in the other fixtures
        R = {n: t for n, t in R.items() if not n.startswith("post") or n.startswith("posteval/") or ".shared." in n
             or n.split("/")[1].split(".")[-1] in ("gatew", "gateG", "mask", "lnw", "lnb", "cls", "headw")}
    kinds = {"act": np.uint8, "k": np.int32, "mask": np.int32, "count": np.int64}
    for full, want in R.items():
        a, last = want.reshape(-1).numpy() if want.dim() == 0 else want.numpy(), full.split("/")[-1].split(".")[-1]
        tensors[full] = a.astype(kinds.get(last, np.float32 if a.size > 64 else np.float64))
        if last in kinds:
            continue
        tol = atol.get(full, 0.0)
        meta["atol/" + full] = "%.3e" % (tol if isinstance(tol, float) else tol.max())
        meta["rtol/" + full] = "%.1e" % (r if full in atol else 0)
        if not isinstance(tol, float):
            tensors["tol/" + full] = tol.numpy().astype(np.float32)
    return tensors, meta

def write_fixtures(args):
    folders = [(args.dir, CASES), (args.dir.rstrip("/") + "_vit", VIT_CASES)]
    for folder, case in [(folder, case) for folder, cases in folders for case in cases]:
        os.makedirs(folder, exist_ok=True)
        tensors, meta = make_case(case)
        path = os.path.join(folder, case["name"] + ".safetensors")
        write_safetensors(path, tensors, meta)
        rows = compare_fixture(path, torch.float32)
        print("%-40s %7d bytes  margin %.1e  float32 uses %.2f of a tolerance" % (
            path, os.path.getsize(path), float(meta["margin"]), max(w for n, w in rows)))
    path = os.path.join(args.dir, "gate_golden.txt")
    write_golden(path)
    print("%-40s %7d bytes" % (path, os.path.getsize(path)))

# ----------------------------------------------------------------------------
# gate_golden.txt: one DynMoE layer alone, in plain text, for the first test of a new implementation
#
# loss = 0.5 |y|^2 + <r, y> + 0.3 L_div + 0.2 L_simple + 0.5 L_lb + 0.7 L_eff at tau = 1, with the
# simplicity loss over the whole pool (unlike the other fixtures), for both conventions of k.

GOLDEN_INPUTS = "x W G w1 b1 w2 b2 mask r".split()

def run_golden(t):
    # t: x (S, D), W (E, D), G (E), w1 (E, H, D), b1 (E, H), w2 (E, D, H), b2 (E, D), mask (E), r (S, D)
    R = {}
    for kgrad, tag in (("normalised", "_norm"), ("detached", "_detach")):
        p = {n: t[n].clone().requires_grad_(True) for n in GOLDEN_INPUTS[:7]}
        c, g = gate(p["x"], p["W"], p["G"], t["mask"], 1.0)
        y = combine(g, experts(p["x"], p["w1"], p["b1"], p["w2"], p["b2"]), kgrad)
        div, _, lb, eff = aux_losses(p["W"], t["mask"], g)
        simple = p["W"].norm(dim=1).mean()
        loss = 0.5 * (y ** 2).sum() + (t["r"] * y).sum() + 0.3 * div + 0.2 * simple + 0.5 * lb + 0.7 * eff
        if tag == "_norm":
            R.update({"cos": c, "gate": g, "k": g.sum(-1), "y": y})
        R["loss" + tag] = loss
        R.update({"d" + n + tag: d for n, d in zip(p, torch.autograd.grad(loss, list(p.values())))})
    R["gate_eval"] = top1_fallback(c, g, t["mask"])
    return {n: a.detach() for n, a in R.items()}

def write_golden(path):
    S, D, E, H = 9, 5, 5, 3
    rng = np.random.RandomState(22)
    shapes = dict(x=(S, D), W=(E, D), G=(E,), w1=(E, H, D), b1=(E, H), w2=(E, D, H), b2=(E, D), mask=(E,), r=(S, D))
    t = {n: torch.tensor(rng.randn(*shapes[n])) for n in GOLDEN_INPUTS}
    t["G"] = torch.tensor([0.0, 0.25, -0.1, HIGH, 0.3], dtype=torch.float64)    # expert 3 is never used
    t["mask"] = torch.tensor([1, 0, 1, 1, 1], dtype=torch.float64)
    R = run_golden(t)
    assert {0, 1, 2} <= set(R["k"].int().tolist()) and (R["cos"] - t["G"]).abs().min() > 1e-3
    with open(path, "w") as f:
        f.write("S %d D %d E %d H %d\n" % (S, D, E, H))
        for n, a in [(n, t[n]) for n in GOLDEN_INPUTS] + list(R.items()):
            f.write("%s %d\n%s\n" % (n, a.numel(), " ".join("%.17g" % v for v in a.reshape(-1).tolist())))

def compare_golden(path):
    # -> rows (name, worst error / tolerance); the tolerance is 1e-12 of the largest value
    try:
        with open(path) as f:
            words = f.read().split()
        S, D, E, H = [int(w) for w in words[1:8:2]]
        want, i = {}, 8
        while i < len(words):
            n = int(words[i + 1])
            want[words[i]] = torch.tensor([float(w) for w in words[i + 2:i + 2 + n]], dtype=torch.float64)
            i += 2 + n
        shapes = dict(x=(S, D), W=(E, D), w1=(E, H, D), b1=(E, H), w2=(E, D, H), b2=(E, D), r=(S, D))
        t = {n: want.pop(n).reshape(shapes.get(n, (E,))) for n in GOLDEN_INPUTS}
    except (ValueError, IndexError, KeyError, RuntimeError, UnicodeDecodeError):
        raise UserError("%s: not a gate_golden.txt" % path, "first 'S .. D .. E .. H ..', then name, count, values")
    R = run_golden(t)
    if any(n not in R or R[n].numel() != w.numel() for n, w in want.items()):
        raise UserError("%s: a field is unknown or has another size" % path, "compare it with test/fixtures/gate_golden.txt")
    return [(n, ((R[n].reshape(-1) - w).abs().max() / (1e-12 * w.abs().max().clamp(min=1))).item()) for n, w in want.items()]

# ----------------------------------------------------------------------------
# check: this implementation against any fixture

def compare_fixture(path, dtype):
    # -> rows (name, worst error / tolerance); an inexact whole number counts as infinite
    tensors, meta = read_safetensors(path)
    if meta.get("format") != "dynmoe-fixture 1":
        raise UserError("%s: not a fixture" % path, "its metadata has format = dynmoe-fixture 1")
    R, _ = run_fixture(tensors, parse_config(meta, path), path, dtype)
    rows = []
    for n in sorted(tensors):
        if n.split("/")[0] in ("data", "param", "param_m", "param_v", "tol"):
            continue
        want = tensors[n].astype(np.float64)
        if n not in R or R[n].numel() != want.size:
            raise UserError("%s: tensor %s is not expected, or not in this size" % (path, n), "see the list of groups")
        error = np.abs(R[n].double().numpy().reshape(want.shape) - want)
        if n.split("/")[-1].split(".")[-1] in EXACT:
            rows.append((n, 0.0 if (error == 0).all() else math.inf))
            continue
        try:
            tol = tensors.get("tol/" + n, float(meta["atol/" + n])) + float(meta["rtol/" + n]) * np.abs(want)
        except (KeyError, ValueError):
            raise UserError("%s: no tolerance for %s" % (path, n), "atol/NAME and rtol/NAME belong in the metadata")
        ratio = np.where(error == 0, 0.0, error / np.maximum(tol, 1e-300))
        rows.append((n, float(ratio.max()) if ratio.size else 0.0))
    return rows

def check(args):
    failed = 0
    for path in args.files:
        text = path.endswith(".txt")
        rows = compare_golden(path) if text else compare_fixture(path, torch.float32 if args.float32 else torch.float64)
        bad = [n for n, w in rows if not w <= 1]     # also true for nan
        for n, w in rows:
            if not args.quiet or n in bad:
                print("%-36s %10.6f  %s" % (n, w, "FAIL" if n in bad else "ok"))
        name, worst = max(rows, key=lambda row: row[1], default=("nothing", 0.0))
        print("%s: %d tensors, worst %.6f of its tolerance (%s), %s" % (
            path, len(rows), worst, name, "%d FAIL" % len(bad) if bad else "all ok"))
        failed += len(bad)
    return 1 if failed else 0

# ----------------------------------------------------------------------------
# checkpoints of the C program: logits and greedy text

def load_checkpoint(args, model):
    # -> P, mask, cfg, all in float64, and the metadata
    tensors, meta = read_safetensors(args.ckpt)
    if meta.get("format") != "dynmoe-checkpoint 1":
        raise UserError("%s: not a checkpoint" % args.ckpt, "its metadata has format = dynmoe-checkpoint 1")
    keys = SIZES["gpt2"] + SIZES["vit"] + INTS + ["moe_layers", "scale"] + OPTIONAL
    cfg = parse_config({k: meta[k] for k in keys if k in meta}, args.ckpt, [], ["scale"])
    if cfg.model != model:
        raise UserError("%s: a model of the kind %s" % (args.ckpt, cfg.model), "a gpt2 takes --prompt, a vit --images")
    shapes = parameter_shapes(cfg)
    for n in tensors:
        if n.startswith("h.") and n not in shapes and not n.endswith(".moe.mask"):
            raise UserError("%s: tensor %s is unknown here" % (args.ckpt, n), "dense and DynMoE layers of GPT-2 and ViT only")
    P = take(tensors, "", shapes, args.ckpt, torch.float64)
    return P, take_masks(tensors, "", cfg, args.ckpt, torch.float64), cfg, meta

def load_prompt(args):
    # -> P, mask, cfg, and the tokens of the prompt: text is bytes, a byte is a token
    P, mask, cfg, _ = load_checkpoint(args, "gpt2")
    tokens = list(os.fsencode(args.prompt))
    if cfg.V != 256:
        raise UserError("%s: vocabulary %d, not bytes" % (args.ckpt, cfg.V), "take a model trained on a text file")
    if not tokens:
        raise UserError("the prompt is empty", "give at least one character with --prompt")
    return P, mask, cfg, tokens

def evaluate_tokens(P, mask, cfg, tokens):
    # evaluation mode on what the model can see: the last T tokens
    with torch.no_grad():
        return forward(P, mask, cfg, torch.tensor([tokens[-cfg.T:]]), training=False)

def load_images(args, cfg, meta):
    # records of 1 or 2 label bytes, the class is the last, and a byte per pixel -> x (n, channels, image, image), y (n)
    size = args.labels + cfg.channels * cfg.image ** 2
    total = os.path.getsize(args.images)
    if args.n < 1:
        raise UserError("-n %d: no images" % args.n, "take at least one")
    if total < size or total % size:
        raise UserError("%s: %d bytes are not records of %d" % (args.images, total, size),
                        "--labels 1 for CIFAR-10, --labels 2 for CIFAR-100, and the pixels that the model was trained on")
    try:
        mean, std = [[float(v) for v in meta[k].split(",")] for k in ("mean", "std")]
    except (KeyError, ValueError):
        mean, std = [], []
    if not len(mean) == len(std) == cfg.channels or not all(map(math.isfinite, mean + std)) or min(std) <= 0:
        raise UserError("%s: mean and std in the metadata are not %d numbers" % (args.ckpt, cfg.channels),
                        "one for each channel, with commas, in units of pixel / 255")
    with open(args.images, "rb") as f:
        a = np.frombuffer(f.read(min(total, args.n * size)), np.uint8).reshape(-1, size)
    x = a[:, args.labels:].reshape(-1, cfg.channels, cfg.image, cfg.image) / 255.0
    mean, std = [np.array(v).reshape(-1, 1, 1) for v in (mean, std)]
    return torch.tensor((x - mean) / std), a[:, args.labels - 1]

def evaluate_images(args):
    P, mask, cfg, meta = load_checkpoint(args, "vit")
    x, y = load_images(args, cfg, meta)
    with torch.no_grad():
        o = forward(P, mask, cfg, x, training=False)
    for i, row in enumerate(o.logits):
        print("image %d, class %d, says %d: %s" % (i, y[i], row.argmax(), " ".join("%.6f" % v for v in row)))
    return o

def logits(args):
    if args.images is not None:
        o = evaluate_images(args)
    else:
        o = evaluate_tokens(*load_prompt(args))
        p, best = torch.softmax(o.logits[-1], -1).topk(5)
        print("logits %s, next byte: %s" % (tuple(o.logits.shape),
              "  ".join("%r %.4f" % (bytes([b]), q) for b, q in zip(best.tolist(), p.tolist()))))
    for l, i in o.layers.items():
        print("layer %d: %.2f experts per token, closest decision %.1e" % (l, i.act.sum(-1).mean(), i.margin))
    if args.out:
        out = {"h.%d.act" % l: i.act.numpy().astype(np.uint8) for l, i in o.layers.items()}
        write_safetensors(args.out, dict(out, logits=o.logits.numpy()), {"format": "dynmoe-logits 1"})
    if not args.compare:
        return 0
    theirs, _ = read_safetensors(args.compare)
    if "logits" not in theirs or theirs["logits"].shape != tuple(o.logits.shape):
        raise UserError("%s: no logits of shape %s" % (args.compare, tuple(o.logits.shape)), "same input, same checkpoint?")
    for l, i in o.layers.items():
        act = theirs.get("h.%d.act" % l)
        if act is not None and act.shape == tuple(i.act.shape):
            print("layer %d: %d tokens routed differently" % (l, (act != i.act.numpy()).any(-1).sum()))
    worst = np.abs(theirs["logits"].astype(np.float64) - o.logits.numpy()).max()
    print("worst difference %.3e, tolerance %.1e: %s" % (worst, args.tol, "ok" if worst <= args.tol else "FAIL"))
    return 0 if worst <= args.tol else 1

def generate(args):
    P, mask, cfg, tokens = load_prompt(args)
    for _ in range(args.n):
        tokens.append(int(evaluate_tokens(P, mask, cfg, tokens).logits[-1].argmax()))
    sys.stdout.buffer.write(bytes(tokens) + b"\n")
    return 0

# ----------------------------------------------------------------------------
# a GPT-2 file as it is published, small and random, and what the model computes: for tests of a reader

PUBLISHED = dict(wte="wte.weight", wpe="wpe.weight", ln1w="ln_1.weight", ln1b="ln_1.bias", qkvw="attn.c_attn.weight",
                 qkvb="attn.c_attn.bias", attprojw="attn.c_proj.weight", attprojb="attn.c_proj.bias", ln2w="ln_2.weight",
                 ln2b="ln_2.bias", fcw="mlp.c_fc.weight", fcb="mlp.c_fc.bias", fcprojw="mlp.c_proj.weight",
                 fcprojb="mlp.c_proj.bias", lnfw="ln_f.weight", lnfb="ln_f.bias")
HEAD_SIZE = 64      # of every published GPT-2, whose file does not say how many heads there are

def gpt2(args):
    stem, ext = os.path.splitext(args.out)
    heads = args.heads or args.c // HEAD_SIZE
    if heads < 1 or args.c % heads or min(args.c, args.layers, args.t, args.v) < 1 or args.seed < 0 or ext != ".safetensors":
        raise UserError("no such GPT-2", "channels that divide into --heads, or in steps of %d; a name that ends in .safetensors"
                        % HEAD_SIZE)
    meta = dict(L=args.layers, NH=heads, C=args.c, T=args.t, V=args.v, Vp=args.v, E=0, moe_layers="")
    cfg = parse_config(meta, args.out, [], [])
    cfg.aux_weight = 0.0
    rng, P, file, prefix = np.random.RandomState(args.seed), {}, {}, "transformer." if args.prefix else ""
    for n, shape in parameter_shapes(cfg).items():
        h, last = n[:n.rfind(".") + 1], n.split(".")[-1]
        # far from where training starts, so that the loss is not log V and every bias and order matters
        a = (0.2 * rng.randn(*shape) + (last in ("ln1w", "ln2w", "lnfw"))).astype(np.float32)
        P[n] = torch.tensor(a, dtype=torch.float64)
        # y = x W + b there: a linear weight is stored (in, out)
        file[prefix + h + PUBLISHED[last]] = a.T if last in ("qkvw", "attprojw", "fcw", "fcprojw") else a
    for l in range(cfg.L):      # a buffer, the causal mask: in the file, no parameter
        file[prefix + "h.%d.attn.bias" % l] = np.tril(np.ones((1, 1, cfg.T, cfg.T), np.float32))
    text = rng.randint(0, cfg.V, (2, cfg.T + 1)).astype(np.int32)
    x, y = text[:, :-1], text[:, 1:]
    with torch.no_grad():
        o = forward(P, {}, cfg, torch.tensor(x, dtype=torch.int64), torch.tensor(y, dtype=torch.int64), training=False)
    write_safetensors(args.out, file, {"format": "pt"})
    write_safetensors(stem + ".expected.safetensors", {"tokens": x, "targets": y, "loss": o.ce.reshape(1).numpy(),
                      "logits": o.logits.numpy()}, {"format": "dynmoe-logits 1"})
    print("%s: %d layers, %d heads, loss %.4f, log V %.4f" % (args.out, cfg.L, cfg.NH, o.ce, math.log(cfg.V)))
    return 0

# ----------------------------------------------------------------------------
# main

def main():
    parser = argparse.ArgumentParser(description="DynMoE in float64 PyTorch: the oracle of the project")
    sub = parser.add_subparsers(dest="command", required=True)
    p = sub.add_parser("fixtures", help="write the project's own fixtures")
    p.add_argument("dir", nargs="?", default="test/fixtures", help="those of the ViT go to DIR_vit (default: %(default)s)")
    p.set_defaults(run=write_fixtures)
    p = sub.add_parser("check", help="compare this implementation with fixtures")
    p.add_argument("files", nargs="+", help="*.safetensors or gate_golden.txt")
    p.add_argument("--float32", action="store_true", help="run in float32: how much of the tolerances is used?")
    p.add_argument("-q", "--quiet", action="store_true", help="one line a file, and what fails")
    p.set_defaults(run=check)
    for name, run in (("logits", logits), ("generate", generate)):
        p = sub.add_parser(name, help="of a checkpoint, in evaluation mode")
        p.add_argument("ckpt")
        p.set_defaults(run=run)
        if name == "generate":
            p.add_argument("--prompt", required=True, help="text; the last T bytes count")
            p.add_argument("-n", type=int, default=64, help="number of bytes to add")
            continue
        g = p.add_mutually_exclusive_group(required=True)
        g.add_argument("--prompt", help="text; the last T bytes count")
        g.add_argument("--images", help="of a ViT: records of label bytes and pixels, as CIFAR has them")
        p.add_argument("--labels", type=int, choices=(1, 2), default=1, help="label bytes of a record; the class is the last")
        p.add_argument("-n", type=int, default=8, help="number of images, from the first on (default 8)")
        p.add_argument("--out", help="write logits and open gates to this safetensors file")
        p.add_argument("--compare", help="compare with the logits in this safetensors file")
        p.add_argument("--tol", type=float, default=1e-3, help="largest difference allowed with --compare")
    p = sub.add_parser("gpt2", help="write a random GPT-2 in the published layout, and FILE.expected.safetensors")
    p.add_argument("out", help="FILE.safetensors")
    for name, default in (("seed", 0), ("c", 64), ("layers", 2), ("t", 16), ("v", 256)):
        p.add_argument("--" + name, type=int, default=default, help="default %d" % default)
    p.add_argument("--heads", type=int, default=0, help="default: channels / %d, as in every published GPT-2" % HEAD_SIZE)
    p.add_argument("--prefix", action="store_true", help="every name starts with transformer.")
    p.set_defaults(run=gpt2)
    args = parser.parse_args()
    try:
        return args.run(args)
    except UserError as e:
        sys.exit("error: %s" % e)
    except OSError as e:
        sys.exit("error: %s (%s)\n---> HINT: check the path and its permissions" % (e.filename, e.strerror))

if __name__ == "__main__":
    sys.exit(main())
