package boltledger

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/carload/carload/uploader"
)

// TestChangesTogether has changes gather while another is on its way: they
// share a transaction, and one that fails takes nothing from the others.
func TestChangesTogether(t *testing.T) {
	t.Parallel()
	l, err := Open(filepath.Join(t.TempDir(), "ledger.db"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	bad := errors.New("bad")
	for _, fails := range []bool{false, true} {
		const n = 5
		var transactions [n]int
		errs := make(chan error, n)
		l.mu.Lock() // as if one were on its way
		for i := range n {
			go func() {
				errs <- l.change(func(tx *bbolt.Tx) error {
					transactions[i] = tx.ID()
					if fails && i == 2 {
						return bad
					}
					return put(tx.Bucket([]byte(bucketPlans)), []byte{byte(i)}, nil)
				})
			}()
		}
		for gathered := 0; gathered < n; runtime.Gosched() {
			l.queueMu.Lock()
			gathered = len(l.queue)
			l.queueMu.Unlock()
		}
		l.mu.Unlock()
		failed := 0
		for range n {
			if err := <-errs; errors.Is(err, bad) {
				failed++
			} else if err != nil {
				t.Error(err)
			}
		}
		if fails != (failed == 1) || failed > 1 {
			t.Errorf("%d failed", failed)
		}
		if shared := transactions[0] == transactions[n-1]; shared == fails {
			t.Errorf("transactions %v", transactions)
		}
		if err := l.view(func(tx *bbolt.Tx) error {
			for i := range n {
				if there := tx.Bucket([]byte(bucketPlans)).Get([]byte{byte(i)}) != nil; !there && (!fails || i != 2) {
					t.Errorf("change %d is lost", i)
				}
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
		if err := l.change(func(tx *bbolt.Tx) error {
			for i := range n {
				if err := tx.Bucket([]byte(bucketPlans)).Delete([]byte{byte(i)}); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestFault cuts the file in the middle of a transaction. The pages that are
// gone are a fault, which is an error; Close does not wait for what it left
// locked.
func TestFault(t *testing.T) {
	t.Parallel()
	for _, size := range []int64{0, 8192} {
		for _, write := range []bool{true, false} {
			t.Run(fmt.Sprintf("%d/write=%t", size, write), func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "ledger.db")
				l, err := Open(path, Options{NoSync: true})
				if err != nil {
					t.Fatal(err)
				}
				fill := func(tx *bbolt.Tx) error {
					for i := range 1000 {
						if err := put(tx.Bucket([]byte(bucketPlans)), sequence(uint64(i)), make([]byte, 100)); err != nil {
							return err
						}
					}
					return nil
				}
				if err := l.change(fill); err != nil {
					t.Fatal(err)
				}
				run, f := l.view, func(tx *bbolt.Tx) error {
					return tx.Bucket([]byte(bucketPlans)).ForEach(func(_, _ []byte) error { return nil })
				}
				if write {
					run, f = l.change, fill
				}
				err = run(func(tx *bbolt.Tx) error {
					if err := os.Truncate(path, size); err != nil {
						return err
					}
					return f(tx)
				})
				if !errors.Is(err, uploader.ErrLedgerDamaged) {
					t.Errorf("error %v", err)
				}
				if err := l.change(fill); !errors.Is(err, uploader.ErrLedgerDamaged) {
					t.Errorf("afterwards: error %v", err)
				}
				if err := errors.Join(l.Close(), l.Close()); err != nil {
					t.Error(err)
				}
				if _, err := Open(path, Options{}); !errors.Is(err, uploader.ErrLedgerDamaged) {
					t.Errorf("open: error %v", err)
				}
			})
		}
	}
}
