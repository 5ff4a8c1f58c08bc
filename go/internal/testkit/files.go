package testkit

import (
	"os"
	"slices"
)

// Files lists the open files of a process, each as its number and what it is.
type Files []string

// OpenFiles returns the files that this process has open. It needs Linux's /proc.
func OpenFiles() (Files, error) {
	const dir = "/proc/self/fd/"
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var files Files
	for _, e := range entries {
		// One is the directory itself, which is closed by now.
		if what, err := os.Readlink(dir + e.Name()); err == nil {
			files = append(files, e.Name()+" "+what)
		}
	}
	return files, nil
}

// Since returns the files that are open now and are not among f. To look for leaks, wait
// until it is empty. Do not compare counts: a goroutine of an earlier test may close a
// file of f at any time.
func (f Files) Since() (Files, error) {
	now, err := OpenFiles()
	return slices.DeleteFunc(now, func(file string) bool { return slices.Contains(f, file) }), err
}
