# dwte of the head without the weight of the micro-batch
/^void head_backward(/,/^}/ s~C, N, scale / (float)N, 1\.0f~C, N, 1.0f / (float)N, 1.0f~
