# backward gets the output of the layernorm where its input belongs
/^void attention_half_backward(/,/^}/ s~model->dln, a->res~model->dln, a->ln1~
