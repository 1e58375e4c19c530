package uploader_test

// child is what the test binary does when a test runs it as a command.
func child(string) int { return 2 }
