# the head's bias forgets the mean over the batch
/^void head_backward(/,/^}/ s~d->logits, scale / (float)B, B, classes)~d->logits, scale, B, classes)~
