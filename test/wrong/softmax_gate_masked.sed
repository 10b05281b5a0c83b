# inactive experts take part in the softmax
/^void softmax_gate_forward(/,/^}/ s~p\[e\] = mask\[e\] ? expf(p\[e\] - max) : 0\.0f~p[e] = expf(p[e] - max)~
