# biases, norms, W and G decay too
/^void gpt2_update(/,/^}/ s~t->decay ? weight_decay : 0\.0f~weight_decay~
