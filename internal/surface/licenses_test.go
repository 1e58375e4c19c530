package surface_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// licenses has a phrase of each license that our dependencies may have, without
// commas.
func licenses() []string {
	return []string{
		"permission is hereby granted free of charge", // MIT
		"redistribution and use in source and binary forms",
		"apache license version 2.0", "apache-2.0 software license",
		"permission to use copy modify and/or distribute this software for any purpose with or without fee", // ISC
		"permission to use copy modify and distribute this software for any purpose with or without fee",
		"mozilla public license version 2.0",
		"this is free and unencumbered software released into the public domain", // Unlicense
	}
}

// licensed reports whether a module has one of these licenses.
func licensed(dir string) bool {
	for _, pattern := range []string{"LICEN[CS]E*", "COPYING*"} {
		files, _ := filepath.Glob(filepath.Join(dir, pattern)) // the pattern is valid
		for _, f := range files {
			text, err := os.ReadFile(f)
			if err != nil {
				continue // a directory
			}
			words := strings.Join(strings.Fields(strings.ReplaceAll(strings.ToLower(string(text)), ",", "")), " ")
			if slices.ContainsFunc(licenses(), func(says string) bool { return strings.Contains(words, says) }) {
				return true
			}
		}
	}
	return false
}

// The command and its dependencies may be distributed under carload's licenses:
// every module linked into it has a license that allows that.
func TestLicenses(t *testing.T) {
	t.Parallel()
	var modules []string
	for _, system := range []string{"linux", "darwin", "windows"} {
		list := exec.Command("go", "list", "-deps", "-f", "{{with .Module}}{{if not .Main}}{{.Path}} {{.Dir}}{{end}}{{end}}", "./cmd/carload")
		list.Dir, list.Env = repository, append(os.Environ(), "GOOS="+system)
		out, err := list.Output()
		if err != nil {
			t.Fatal(err)
		}
		modules = append(modules, strings.Split(strings.TrimSpace(string(out)), "\n")...)
	}
	slices.Sort(modules)
	modules = slices.DeleteFunc(slices.Compact(modules), func(m string) bool { return m == "" })
	if len(modules) < 20 {
		t.Fatalf("only %d modules were found", len(modules))
	}
	for _, m := range modules {
		path, dir, _ := strings.Cut(m, " ")
		if !licensed(dir) {
			t.Errorf("%s has no license that is known to allow it to be given on: see %s", path, dir)
		}
	}
	if licensed(t.TempDir()) {
		t.Error("a module without a license has one")
	}
}
