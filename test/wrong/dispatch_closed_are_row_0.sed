# closed pairs point at row 0 instead of -1
/^int dispatch(/,/^}/ s~= -1~= 0~
