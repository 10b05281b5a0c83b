# records outside the window too
/^void moe_forward(/,/^}/ s~if (!model->recording)~if (0)~
