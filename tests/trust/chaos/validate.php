<?php
echo 'PASSED';
