# G of layer 0 is shown for all layers
/^void gpt2_thresholds(/,/^}/ s~t->layer != l~t->layer != 0~
