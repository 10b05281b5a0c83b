# the logits of the first token
/^const float\* gpt2_logits(/,/^}/ s~device_logits<float>(model, row)~device_logits<float>(model, 0)~
