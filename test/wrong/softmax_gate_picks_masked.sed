# inactive experts can be chosen
/^void softmax_gate_forward(/,/^}/ s~if (mask\[e\] && !open~if (!open~
