# inactive experts are routed to as well
/^int gate_forward(/,/^}/ s~mask\[e\] && cosine\[ie\] > G\[e\]~cosine[ie] > G[e]~
