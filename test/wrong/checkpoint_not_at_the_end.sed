# the model is not saved after the last step
/^void train(/,/^}/ s~if (done || (s->save_every > 0~if ((s->save_every > 0~
