# with the residual stream the layer reads ln2
/^void feedforward_half_forward(/,/^}/ s~model->config\.residual ? a->mid : a->ln2~a->ln2~
