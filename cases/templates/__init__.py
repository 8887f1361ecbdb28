"""Cases and a script to begin with: ``lrsa-coupled new PATH --template NAME`` copies one."""
