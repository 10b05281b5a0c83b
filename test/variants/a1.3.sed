# changes a1.q1
# An expert also opens when the cosine equals its threshold.
/^int gate_forward(/,/^}/ s~cosine is above its threshold~cosine is above its threshold or equal to it~
/^int gate_forward(/,/^}/ s~cosine\[ie\] > G\[e\]~cosine[ie] >= G[e]~
