# with --init windows have the length of --context, not of the model
/^int main(/,/^}/ s~s\.context = config\.T;~~
