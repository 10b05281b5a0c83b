# products with epilogues run on lane 0
/^int matmul_epilogue(/,/^}/ s~WORKSPACE_BYTES, lane->stream~WORKSPACE_BYTES, lanes->stream~
