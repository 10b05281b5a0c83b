# the cosine goes to zero
/^float learning_rate(/,/^}/ s~s->lr \* (s->lr_end + (1\.0f - s->lr_end) \*~s->lr * (0.0f + (1.0f - 0.0f) *~
