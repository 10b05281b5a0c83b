# validation adds to the records
/^void moe_forward(/,/^}/ s~if (training && model->recording)~if (model->recording)~
