# the sigmoid of the score is compared with the threshold itself
/^int gate_forward(/,/^}/ s~cosine\[ie\] > G\[e\];~sigmoid(cosine[ie]) > G[e];~
