package cml

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// firstTree are the files of a tree to begin with, the root first.
var firstTree = []struct{ name, text string }{
	{"root.cml", `// The root of the tree: its children, and what each is given. Nobody gets what its parent does not offer.
{
    children: [
        {
            name: "hello",
            url: "hello.cml",
            startup: "eager",
        },
    ],
    offer: [
        // The manager gives the root the runner "elf", which runs programs of this machine.
        {
            runner: "elf",
            from: "parent",
            to: "#hello",
        },
    ],
}
`},
	{"hello.cml", `// A component: what it runs, and what it needs for that.
{
    program: {
        runner: "elf",
        binary: "/bin/sh",
        args: [
            "-c",
            "echo Hello from $CMGR_MONIKER; exec sleep infinity",
        ],
    },
}
`},
	{"README.md", `Run this tree with "cmgr run root.cml", look at it from elsewhere with "cmgr list -v", and stop it with Ctrl-C.
root.cml is the tree, and hello.cml its one component: let it run your own program. The language is in cml(5).
After each change "cmgr verify root.cml" says what is wrong, and "cmgr fmt -w *.cml" brings the files in shape.
`},
}

// Init writes a first tree that runs to dir, which is made if need be: a root, one component, and a short README.md unless there
// is one. It returns the files that it wrote, the root first. Nothing is overwritten, and nothing written if a manifest is there
// already, which is a *fs.PathError of fs.ErrExist.
func Init(dir string) ([]string, error) {
	var todo []int
	for i, f := range firstTree {
		switch _, err := os.Lstat(filepath.Join(dir, f.name)); {
		case errors.Is(err, fs.ErrNotExist):
			todo = append(todo, i)
		case err != nil:
			return nil, err
		case f.name != "README.md":
			return nil, &fs.PathError{Op: "init", Path: filepath.Join(dir, f.name), Err: fs.ErrExist}
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	var files []string
	for _, i := range todo {
		path := filepath.Join(dir, firstTree[i].name)
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		if err != nil {
			return nil, err
		}
		_, err = f.WriteString(firstTree[i].text)
		if err := errors.Join(err, f.Close()); err != nil {
			return nil, err
		}
		files = append(files, path)
	}
	return files, nil
}
