# the slots of inactive experts are stepped as well
/^void gpt2_update(/,/^}/ s~if (t->moe && !model->layer\[t->layer\]\.mask\[e\]) { continue; }~~
