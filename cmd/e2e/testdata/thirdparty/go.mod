module example.com/roster

go 1.26.0

require clerkconnect v0.0.0

// Where clerk-connect's sources are: another folder, or a tag of its repository.
replace clerkconnect => ../clerk-connect
