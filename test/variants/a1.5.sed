# changes a1.q3
# Within an expert the rows are in descending token order: the last token first.
/^int dispatch(/,/^}/ s~in token order within an expert~in descending token order within an expert~
/^int dispatch(/,/^}/ s~int i = 0; i < N; i++~int i = N - 1; i >= 0; i--~
