module kes-load

go 1.26.0

require golang.org/x/net v0.40.0

require golang.org/x/text v0.43.0 // indirect
